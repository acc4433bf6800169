"""Transformers as people write them in torch, and their ONNX files, for models that are trained."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnxscript.optimizer import fold_constants
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir


class Attention(nn.Module):
    """Self-attention of several heads by torch's own function."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return states of the same shape, ``[batch, length, width]``."""
        batch, length, width = states.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(states).split(width, dim=2)
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=self.is_causal
        )
        joined: torch.Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, width))
        return joined


class Block(nn.Module):
    """A layer of a transformer that normalises first."""

    def __init__(
        self, width: int, heads: int, is_causal: bool, gelu: str = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, is_causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gelu = nn.GELU(approximate=gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return states of the same shape, ``[batch, length, width]``."""
        states = states + self.attention(self.before_attention(states), mask)
        wide = self.gelu(self.up(self.before_mlp(states)))
        added: torch.Tensor = states + self.dropout(self.down(wide))
        return added


class Vit(nn.Module):
    """Images ``[batch, 3, height, width]`` to logits of classes."""

    def __init__(
        self,
        width: int = 32,
        heads: int = 2,
        layers: int = 2,
        image: tuple[int, int] = (16, 16),
        patch: int = 4,
        classes: int = 5,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        count = (image[0] // patch) * (image[1] // patch)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, count + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, is_causal=False) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, classes]``."""
        states = self.patches(pixels).flatten(2).transpose(1, 2)
        states = torch.cat([self.first.expand(states.shape[0], -1, -1), states], dim=1)
        states = states + self.positions
        for block in self.blocks:
            states = block(states)
        logits: torch.Tensor = self.head(self.norm(states)[:, 0])
        return logits


class Gpt(nn.Module):
    """Token numbers ``[batch, length]`` to logits of the next ones; the table is tied."""

    def __init__(
        self,
        width: int = 32,
        heads: int = 2,
        layers: int = 2,
        vocabulary: int = 61,
        positions: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, is_causal=True, gelu="tanh", dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, length, vocabulary]``."""
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            states = block(states)
        logits: torch.Tensor = self.head(self.norm(states))
        return logits


def export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    *,
    exporter: str = "legacy",
    opset: int = 17,
    is_training: bool = False,
) -> onnx.ModelProto:
    """Return the ONNX of a module, whose output is ``logits`` and whose batch is open.

    Args:
        module: Its mode is left as it is.
        inputs: An example of each, by name, in the order of ``forward``.
        exporter: ``legacy`` or ``dynamo``.
        opset: Of the file.
        is_training: Whether it is to be written as it is in training: parameters that happen to be
            equal are then kept apart, and batch normalisation is kept at all.
    """
    names, buffer = list(inputs), io.BytesIO()
    was_training = module.training
    module.train(is_training)
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {
            "input_names": names,
            "output_names": ["logits"],
            "opset_version": opset,
        }
        if exporter == "legacy":
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                buffer,
                dynamo=False,
                dynamic_axes={name: {0: "batch"} for name in (*names, "logits")},
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                **settings,
            )
            model = onnx.load_from_string(buffer.getvalue())
        else:
            batch = torch.export.Dim("batch", min=1, max=4096)
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in names),
                optimize=not is_training,
                verbose=False,
                **settings,
            )
            if program is None:
                raise RuntimeError("torch's exporter gave nothing")
            if is_training:
                # Its own optimisation merges parameters that are equal; without any it writes
                # sequences of tensors.
                fold_constants(program.model, should_fold=_has_no_parameter)
            model = program.model_proto
    module.train(was_training)
    return model


def _has_no_parameter(node: ir.Node) -> bool | None:
    is_parameter = (value is not None and value.is_initializer() for value in node.inputs)
    return False if any(is_parameter) else None


@contextmanager
def _silence() -> Iterator[None]:
    """Keep exporters from the terminal: what they say is advice for whoever wrote the model."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
