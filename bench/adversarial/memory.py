"""What it was measured to take to attack and train a module, in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from adversarial.models import INPUT_SHAPE, compile_architecture
from hocket.fl.fat.attack import L2, Attack, Linf
from hocket.fl.fat.cascade import SLACK
from hocket.fl.fat.evaluation import attack_piece
from hocket.fl.fat.frozen import FrozenModules
from hocket.memory_probe import peak_bytes, start_counting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.fat.cascade import Attacked
    from hocket.fl.fat.partition import Cascade

_FOLDER = Path(__file__).parent.parent
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measured_bytes(
    name: str,
    batch_size: int,
    *,
    budget_bytes: int = 0,
    share: float = 1.0,
    attack: Attacked = "features",
) -> list[int]:
    """Return the most bytes that each module took, or all of a model as the only one.

    Args:
        name: Of the architecture.
        batch_size: Of a step.
        budget_bytes: That modules are made under; 0 for the whole model.
        share: Of the model's units, those that a narrow copy has.
        attack: What attacks on modules behind the first change.
    """
    command = [sys.executable, "-W", "ignore", "-m", "adversarial.memory"]
    found = subprocess.run(
        [*command, name, str(batch_size), str(budget_bytes), str(share), attack],
        env={**os.environ, **_SETTINGS, "PYTHONPATH": str(_FOLDER)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: list[int] = json.loads(found.stdout.splitlines()[-1])
    return measured


@dataclass
class Watched:
    """A model in pieces that says what the process has at most while a piece runs.

    All weights are in this process. So those of the piece that is trained, and of a frozen module
    while it runs, are added to what there is more of than before.

    Attributes:
        spans: The model.
        weight_bytes: Of each module, by the name of its start.
        trained_bytes: Of the weights of the one that is trained.
        most: The most there was.
    """

    spans: CompiledSpans
    weight_bytes: Mapping[str, int]
    trained_bytes: int
    before: int = 0
    most: int = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of the model that watches."""
        method = getattr(self.spans, name)
        is_frozen = name in ("features", "pull_back")

        def watched(*args: Any) -> Any:
            visiting = self.weight_bytes[args[0]] if is_frozen else 0
            return self.watch(lambda: method(*args), visiting)

        return watched

    def watch(self, run: Callable[[], Any], visiting: int = 0) -> Any:
        """Run something and count."""
        start_counting()
        found = run()
        self.most = max(self.most, peak_bytes() - self.before + self.trained_bytes + visiting)
        return found


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        spans: The model.
        cascade: Its modules.
        training: How.
        budget_bytes: That a module has; 0 for as much as it takes.
        attack: What attacks on modules behind the first change.
    """

    spans: CompiledSpans
    cascade: Cascade
    training: LocalTraining
    budget_bytes: int
    attack: Attacked

    def train(self, number: int, watched: Watched) -> None:
        """Attack and train a module for two steps."""
        spans, piece = self.spans, self.cascade.piece(number, number)
        generator = np.random.default_rng(0)
        modules = self.cascade.modules[:number] if self.attack == "input" else ()
        start = "" if modules else piece.start
        shapes = {border.name: border.shape for border in spans.borders()}
        shape = (self.training.batch_size, *shapes.get(start, INPUT_SHAPE))
        inputs = generator.uniform(0, 1, shape).astype(np.float32)
        targets = generator.integers(0, 10, len(inputs))
        ball = L2(1.0, is_positive=True) if start else Linf(8 / 255)
        frozen, attack = FrozenModules(watched, modules), Attack(2, keep="last")
        steps = spans.train_piece(piece, self.training, 0)
        limit_bytes = int(SLACK * self.budget_bytes)
        meter = spans.meter(piece, len(inputs), limit_bytes, frozen.spans)
        with meter if modules else contextlib.nullcontext():
            for _ in range(2):
                moved = attack_piece(frozen, piece, attack, ball, inputs, targets, generator)
                watched.watch(partial(steps.step, frozen.features(moved), targets))


def main(
    name: str, batch_size: int, budget_bytes: int, share: float, attack: Attacked
) -> list[int]:
    """Return what each module takes, and beside it the frozen modules, one at a time."""
    torch.set_num_threads(1)
    model = compile_architecture(name, share=share, batch_size=batch_size)
    cascade = model.cascade(budget_bytes) if budget_bytes else model.whole()
    spans = model.spans(cascade.exits)
    case = Case(spans, cascade, model.training, budget_bytes, attack)
    weight_bytes = {
        module.start: model.footprint(spans, cascade.piece(number, number).span).weight_bytes
        for number, module in enumerate(cascade.modules)
    }
    # What libraries load and keep for an operator's first call is not a module's.
    for number in range(len(cascade)):
        case.train(number, Watched(spans, weight_bytes, 0))
    found = []
    for number, module in enumerate(cascade.modules):
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
        watched = Watched(spans, weight_bytes, weight_bytes[module.start], start_counting())
        case.train(number, watched)
        found.append(watched.most)
    return found


if __name__ == "__main__":
    name, *numbers, attack = sys.argv[1:]
    found = main(
        name, int(numbers[0]), int(numbers[1]), float(numbers[2]), cast("Attacked", attack)
    )
    sys.stdout.write(json.dumps(found) + "\n")
