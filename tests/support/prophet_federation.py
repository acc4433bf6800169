"""A federation on scikit-learn's digits that trains for robustness, as a file and its model."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from support.digits import DigitNet
from training.federations import models

if TYPE_CHECKING:
    from collections.abc import Sequence

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
"""Of stages of one round that trains, one that scores, one that measures displacements."""

FAMILY = """\
smaller = ["narrow-0.onnx", "narrow-1.onnx"]
public-devices = 1

[prophet.groups]
"convolutions.0.weight" = ["first", "", "", ""]
"convolutions.0.bias" = ["first"]
"norms.0.weight" = ["first"]
"norms.0.bias" = ["first"]
"norms.0.running_mean" = ["first"]
"norms.0.running_var" = ["first"]
"convolutions.1.weight" = ["second", "first", "", ""]
"convolutions.1.bias" = ["second"]
"norms.1.weight" = ["second"]
"norms.1.bias" = ["second"]
"norms.1.running_mean" = ["second"]
"norms.1.running_var" = ["second"]
"head.weight" = ["", "second*4"]
"""
"""Of ``[prophet]``: narrower models, and what the axes of their arrays number."""


def write_prophet(
    folder: Path,
    method: str = "fedprophet",
    rounds: int = 4,
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


def write_widths(folder: Path, widths: Sequence[tuple[int, int]] = ((12, 16), (6, 8))) -> None:
    """Write narrower models, ``narrow-0.onnx`` and so on; ``FAMILY`` names the first two."""
    for number, width in enumerate(widths):
        (folder / f"narrow-{number}.onnx").write_bytes(_onnx(width))


@functools.cache
def _onnx(width: tuple[int, int] = (24, 32)) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        torch.manual_seed(0)
        models.write_onnx(DigitNet(*width), path, 8)
        return path.read_bytes()
