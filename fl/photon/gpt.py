"""The GPT decoders in torch, from which their ONNX files are exported."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from hocket.fl.core.seeds import derive_seed
from hocket.fl.photon.sizes import EXPANSION

if TYPE_CHECKING:
    from hocket.fl.photon.sizes import GptSize

INPUT, OUTPUT = "ids", "logits"
BATCH = "batch"
"""The dimension of the file that is open."""

_OPSET = 17
_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention whose query heads may share keys and values."""

    def __init__(self, size: GptSize) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = size.heads, size.kv_heads, size.head_dim
        shared = size.kv_heads * size.head_dim
        self.query = nn.Linear(size.width, size.width, bias=False)
        self.key = nn.Linear(size.width, shared, bias=False)
        self.value = nn.Linear(size.width, shared, bias=False)
        self.output = nn.Linear(size.width, size.width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states of the same shape, ``[batch, length, width]``."""
        batch, length, width = states.shape
        query = self.query(states).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        key, value = (self._shared(part(states)) for part in (self.key, self.value))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: torch.Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, width))
        return joined

    def _shared(self, states: torch.Tensor) -> torch.Tensor:
        """Return keys or values ``[batch, heads, length, head_dim]``."""
        batch, length, _ = states.shape
        parts = states.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.kv_heads == self.heads:
            return parts
        times = self.heads // self.kv_heads
        spread = parts[:, :, None].expand(batch, self.kv_heads, times, length, self.head_dim)
        return spread.reshape(batch, self.heads, length, self.head_dim)


class Layer(nn.Module):
    """A layer that normalises first."""

    def __init__(self, size: GptSize) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(size.width)
        self.attention = Attention(size)
        self.before_mlp = nn.LayerNorm(size.width)
        self.up = nn.Linear(size.width, EXPANSION * size.width, bias=False)
        self.down = nn.Linear(EXPANSION * size.width, size.width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states of the same shape, ``[batch, length, width]``."""
        states = states + self.attention(self.before_attention(states))
        hidden = functional.gelu(self.up(self.before_mlp(states)), approximate="tanh")
        added: torch.Tensor = states + self.down(hidden)
        return added


class Gpt(nn.Module):
    """Token numbers ``[batch, length]`` to scores of the next ones; one table for both ends.

    Weights are drawn as GPT-2's: normal of 0.02, those that add to the residual stream smaller by
    the root of how many do.

    Args:
        size: Of the decoder.
        seed: The same seed gives the same weights.
    """

    def __init__(self, size: GptSize, seed: int = 0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.places = nn.Embedding(size.context, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        generator = torch.Generator().manual_seed(derive_seed(seed, "gpt"))
        adding = _STD / math.sqrt(2 * size.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = adding if name.endswith(("output.weight", "down.weight")) else _STD
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return scores ``[batch, length, vocabulary]``."""
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.tokens(ids) + self.places(places)
        for layer in self.layers:
            states = layer(states)
        scores: torch.Tensor = functional.linear(self.norm(states), self.tokens.weight)
        return scores


def export_gpt(module: Gpt, size: GptSize) -> bytes:
    """Return the ONNX file of a decoder, for training: its weights are the module's parameters.

    The input is ``ids``, int64 ``[batch, context]``, the output ``logits``; the batch is open.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # That the exporter is the old one, which alone keeps parameters as they are named, and that
        # shapes it was traced with are constants, which is wanted.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.train(),
            (torch.zeros((2, size.context), dtype=torch.int64),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=_OPSET,
        )
    return buffer.getvalue()
