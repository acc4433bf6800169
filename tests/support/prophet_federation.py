"""A federation on scikit-learn's digits that trains for robustness, as a file and its model."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from support.digits import DigitNet
from training.federations import models

CONFIG = """\
[federation]
name = "robust-digits"
rounds = {rounds}
seed = 3
folder = "runs"

[model]
onnx = "digits.onnx"
dims = {{ batch = "1..64" }}

[data]
source = "digits"
devices = 6
held-out-share = 0.2

[strategy]
name = "{method}"
fraction-train = 0.5
{settings}

[training]
epochs = 10
max-steps = 4
batch-size = 16
learning-rate = 0.05
momentum = 0.9

[prophet]
memory = {memory}
{section}
"""

SHORT = """\
rounds-per-stage = 1
warm-up = 0
patience = 2
settle = 9
adjust-every = 1
input-radius = 0.2
steps = 2
measure-steps = 2
"""
"""Settings of stages of one round: one to train a module, one to measure displacements."""


def write_prophet(
    folder: Path,
    method: str = "fedprophet",
    rounds: int = 3,
    memory: str = '"460kB"',
    settings: str = SHORT,
    section: str = "",
) -> Path:
    """Write a model and a federation's file, and return the latter.

    Args:
        folder: For both; results go to its ``runs``.
        method: What trains it.
        rounds: Of the federation.
        memory: Of every device, as TOML writes it.
        settings: Of the method.
        section: More keys of ``[prophet]``.
    """
    (folder / "digits.onnx").write_bytes(_onnx())
    path = folder / "prophet.toml"
    text = CONFIG.format(
        method=method, rounds=rounds, memory=memory, settings=settings, section=section
    )
    path.write_text(text, encoding="utf-8")
    return path


@functools.cache
def _onnx() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        torch.manual_seed(0)
        models.write_onnx(DigitNet(), path, 8)
        return path.read_bytes()
