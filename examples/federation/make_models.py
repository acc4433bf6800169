"""Write vit.onnx and cnn.onnx, the models of the federations beside this file.

python examples/federation/make_models.py [FOLDER]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    import os


class Cnn(nn.Module):
    """Images ``[batch, 1, size, size]`` to scores of ten classes: that of McMahan et al., smaller.

    Args:
        size: Height and width of an image, a multiple of 4.
        channels: Of the first convolution; the second has twice as many.
    """

    def __init__(self, size: int = 28, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 5, padding=2)
        self.second = nn.Conv2d(channels, 2 * channels, 5, padding=2)
        self.hidden = nn.Linear(2 * channels * (size // 4) ** 2, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scores ``[batch, 10]``."""
        image = functional.max_pool2d(functional.relu(self.first(pixels)), 2)
        image = functional.max_pool2d(functional.relu(self.second(image)), 2)
        scores: torch.Tensor = self.head(functional.relu(self.hidden(image.flatten(1))))
        return scores


class Layer(nn.Module):
    """A layer of a transformer that normalises first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states ``[batch, length, width]`` after the layer."""
        batch, length, width = states.shape
        joined = self.query_key_value(self.before_attention(states))
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in joined.split(width, dim=2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        states = states + self.output(attended.transpose(1, 2).reshape(batch, length, width))
        wide = functional.gelu(self.up(self.before_mlp(states)))
        added: torch.Tensor = states + self.down(wide)
        return added


class Vit(nn.Module):
    """Images ``[batch, 1, size, size]`` to scores of ten classes.

    Args:
        size: Height and width of an image.
        patch: Of a patch; it divides the size.
        width, heads, layers: Of the transformer.
    """

    def __init__(
        self, size: int = 28, patch: int = 7, width: int = 48, heads: int = 3, layers: int = 2
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scores ``[batch, 10]``."""
        states = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            states = layer(states)
        scores: torch.Tensor = self.head(self.norm(states.mean(dim=1)))
        return scores


def write_onnx(module: nn.Module, path: str | os.PathLike[str], size: int = 28) -> None:
    """Write a module as it is in training, so that its parameters stay what they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own future
        torch.onnx.export(
            module.train(),
            (torch.zeros(2, 1, size, size),),
            str(path),
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
            opset_version=17,
        )


def main() -> None:
    """Write both models."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, kind in (("cnn", Cnn), ("vit", Vit)):
        torch.manual_seed(0)
        module = kind()
        write_onnx(module, folder / f"{name}.onnx")
        count = sum(parameter.numel() for parameter in module.parameters())
        print(f"{folder / name}.onnx: {count:,} parameters")


if __name__ == "__main__":
    main()
