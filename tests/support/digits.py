"""A small convolutional classifier of real digits, and its examples on a few devices."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from training.models import export

import hocket
from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import LocalTraining, Span
from hocket.fl.core.data import Examples
from hocket.fl.core.spans import Piece
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.cascade import CascadeClient
from hocket.fl.fat.evaluation import attack_piece
from hocket.fl.fat.partition import atoms_of, partition
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from hocket.fl.core.backend import Footprint
    from hocket.fl.fat.partition import Cascade
    from hocket.runtime.artifact import Artifact

MACHINE = load_target("mas-edge")
TRAINING = LocalTraining(
    epochs=100, max_steps=10, batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=1e-4
)
EXIT_FEATURES = 16
_ON_DEVICE, _HELD_OUT, _ALL_DEVICES = 160, 40, 1200


class DigitNet(nn.Module):
    """Images ``[batch, 1, 8, 8]`` to logits of ten classes, in two convolutions."""

    def __init__(self, first: int = 24, second: int = 32) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(1, first, 3, padding=1), nn.Conv2d(first, second, 3, padding=1)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(first), nn.BatchNorm2d(second)])
        self.head = nn.Linear(4 * second, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pixels = functional.max_pool2d(torch.relu(norm(convolution(pixels))), 2)
        logits: torch.Tensor = self.head(pixels.flatten(1))
        return logits


@functools.cache
def digit_artifact() -> Artifact:
    """Return the model compiled, with the same random parameters each time."""
    torch.manual_seed(0)
    model = export(DigitNet().train(), {"pixels": torch.zeros(2, 1, 8, 8)}, is_training=True)
    return hocket.compile(model, dims={"batch": (1, 64)}).artifact


@functools.cache
def all_digits() -> tuple[Any, Any]:
    """Return images ``[1797, 1, 8, 8]`` from 0 to 1 and their classes, shuffled."""
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), targets[order]


@dataclass(frozen=True)
class Digits:
    """Real digits on six devices; the server has others."""

    num_devices: int = 6

    def device_ids(self) -> list[str]:
        return [f"device-{number}" for number in range(self.num_devices)]

    def load(self, device_id: str) -> Examples:
        start = self.device_ids().index(device_id) * (_ON_DEVICE + _HELD_OUT)
        return self._take(start, start + _ON_DEVICE)

    def held_out(self, device_id: str | None = None) -> Examples:
        if device_id is None:
            return self._take(_ALL_DEVICES, _ALL_DEVICES + 256)
        start = self.device_ids().index(device_id) * (_ON_DEVICE + _HELD_OUT) + _ON_DEVICE
        return self._take(start, start + _HELD_OUT)

    def _take(self, start: int, stop: int) -> Examples:
        images, targets = all_digits()
        return Examples({"pixels": images[start:stop]}, targets[start:stop])


@functools.cache
def planner() -> CompiledSpans:
    """Return the model with an early exit behind each atom, to plan with."""
    spans = CompiledSpans(digit_artifact())
    atoms = atoms_of(spans.borders(), spans.parameters())
    return CompiledSpans(
        digit_artifact(), [atom.name for atom in atoms], exit_features=EXIT_FEATURES
    )


def digit_footprint(span: Span) -> Footprint:
    """Return what it takes to train a span of the model."""
    return planner().footprint(MACHINE, TRAINING, span)


@functools.cache
def digit_cascade(share: float) -> Cascade:
    """Return the modules under a share of the memory that the whole model takes."""
    spans = planner()
    budget = int(share * digit_footprint(Span(is_attacked=True)).peak_bytes)
    atoms = atoms_of(spans.borders(), spans.parameters())
    return partition(atoms, spans.owned, digit_footprint, budget)


@dataclass(frozen=True)
class DigitClients:
    """Makes clients that train a cascade of the model."""

    cascade: Cascade
    digits: Digits = Digits()

    def device_ids(self) -> list[str]:
        return self.digits.device_ids()

    def spans(self) -> CompiledSpans:
        return CompiledSpans(digit_artifact(), self.cascade.exits, exit_features=EXIT_FEATURES)

    def __call__(self) -> CascadeClient:
        return CascadeClient(self.spans(), self.digits, self.cascade)


@functools.cache
def robust_parameters() -> dict[str, Any]:
    """Return parameters of the model that withstands changes of 0.15 somewhat."""
    spans, generator = CompiledSpans(digit_artifact()), np.random.default_rng(0)
    steps = spans.train_piece(Piece(), replace(TRAINING, weight_decay=0.0), 0)
    images, targets = all_digits()
    for _ in range(4):
        for start in range(0, _ALL_DEVICES, 40):
            part = slice(start, start + 40)
            attack = Attack(4, keep="last")
            moved = attack_piece(
                spans, Piece(), attack, Linf(0.15), images[part], targets[part], generator
            )
            steps.step(moved, targets[part])
    return dict(spans.parameters())


def robust_spans() -> CompiledSpans:
    """Return the model with these parameters."""
    spans = CompiledSpans(digit_artifact())
    spans.load_parameters(robust_parameters())
    return spans
