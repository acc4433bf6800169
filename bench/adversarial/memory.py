"""What it was measured to take to attack and train a module, in a process of its own."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from adversarial.models import INPUT_SHAPE, compile_architecture
from hocket.fl.fat.attack import L2, Attack, Linf
from hocket.fl.fat.evaluation import attack_piece
from hocket.memory_probe import peak_bytes, start_counting

if TYPE_CHECKING:
    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.spans import Piece

_FOLDER = Path(__file__).parent.parent
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measured_bytes(
    name: str, batch_size: int, *, budget_bytes: int = 0, share: float = 1.0
) -> list[int]:
    """Return the most bytes that each module took, or all of a model as the only one.

    Args:
        name: Of the architecture.
        batch_size: Of a step.
        budget_bytes: That modules are made under; 0 for the whole model.
        share: Of the model's units, those that a narrow copy has.
    """
    command = [sys.executable, "-W", "ignore", "-m", "adversarial.memory"]
    found = subprocess.run(
        [*command, name, str(batch_size), str(budget_bytes), str(share)],
        env={**os.environ, **_SETTINGS, "PYTHONPATH": str(_FOLDER)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: list[int] = json.loads(found.stdout.splitlines()[-1])
    return measured


def train(
    spans: CompiledSpans,
    piece: Piece,
    training: LocalTraining,
    batch: int,
    input_shape: tuple[int, ...],
) -> None:
    """Attack and train a piece for two steps.

    Args:
        spans: The model.
        piece: Which of it.
        training: How.
        batch: Examples of a step.
        input_shape: Of one of the model's inputs.
    """
    generator = np.random.default_rng(0)
    shape = {border.name: border.shape for border in spans.borders()}.get(piece.start, input_shape)
    inputs = generator.uniform(0, 1, (batch, *shape)).astype(np.float32)
    targets = generator.integers(0, 10, batch)
    ball = L2(1.0, is_positive=True) if piece.start else Linf(8 / 255)
    steps, attack = spans.train_piece(piece, training, 0), Attack(2, keep="last")
    for _ in range(2):
        moved = attack_piece(spans, piece, attack, ball, inputs, targets, generator)
        steps.step(moved, targets)


def measure(spans: CompiledSpans, piece: Piece, training: LocalTraining, weight_bytes: int) -> int:
    """Return the most bytes that training a piece takes, its weights included."""
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    before = start_counting()
    train(spans, piece, training, training.batch_size, INPUT_SHAPE)
    return peak_bytes() - before + weight_bytes


def main(name: str, batch_size: int, budget_bytes: int, share: float) -> list[int]:
    """Return what each module takes."""
    torch.set_num_threads(1)
    model = compile_architecture(name, share=share, batch_size=batch_size)
    cascade = model.cascade(budget_bytes) if budget_bytes else model.whole()
    spans = model.spans(cascade.exits)
    pieces = [cascade.piece(number, number) for number in range(len(cascade))]
    # What libraries load and keep for an operator's first call is not a module's.
    for piece in pieces:
        train(spans, piece, model.training, batch_size, INPUT_SHAPE)
    found = []
    for piece in pieces:
        weight_bytes = model.footprint(spans, piece.span).weight_bytes
        found.append(measure(spans, piece, model.training, weight_bytes))
    return found


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    found = main(name, int(numbers[0]), int(numbers[1]), float(numbers[2]))
    sys.stdout.write(json.dumps(found) + "\n")
