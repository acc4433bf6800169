"""A federation on scikit-learn's digits, as a file and the model it names."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from training.federations import models

if TYPE_CHECKING:
    from torch import nn

SIZE = 8
CONFIG = """\
[federation]
name = "digits"
rounds = {rounds}
seed = 3
folder = "runs"

[model]
onnx = "{model}.onnx"
dims = {{ batch = "1..256" }}

[data]
source = "digits"
partitioning = "dirichlet"
alpha = 0.5
devices = 6

[strategy]
name = "fedavg"
fraction-train = 0.5

[training]
epochs = 2
batch-size = 16
learning-rate = {learning_rate}
"""

Model = Literal["cnn", "vit"]


def make_module(model: Model) -> nn.Module:
    """Return a module of some thousand parameters, the same each time."""
    torch.manual_seed(0)
    made: nn.Module = (
        models.Cnn(SIZE, channels=4)
        if model == "cnn"
        else models.Vit(SIZE, patch=2, width=16, heads=2, layers=1)
    )
    return made


def write_federation(
    folder: Path, model: Model = "cnn", rounds: int = 3, learning_rate: float = 0.2, more: str = ""
) -> Path:
    """Write a model and a federation's file, and return the latter.

    Args:
        folder: For both; results go to its ``runs``.
        model: What is trained.
        rounds: Of the federation.
        learning_rate: Of its devices.
        more: Further sections of the file.
    """
    (folder / f"{model}.onnx").write_bytes(_onnx_of(model))
    path = folder / "federation.toml"
    text = CONFIG.format(rounds=rounds, model=model, learning_rate=learning_rate)
    path.write_text(text + more, encoding="utf-8")
    return path


@functools.cache
def _onnx_of(model: Model) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        models.write_onnx(make_module(model), path, SIZE)
        return path.read_bytes()
