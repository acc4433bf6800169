"""How fast is a training step from an artifact beside the same model in plain torch?

A step is forward, backward and SGD. Both take turns in one process, with the same threads, batches
and numbers; torch runs the module the artifact was made from, with its own attention, as shipped.
With ``--torch-compile`` its compiler takes turns as well, which needs one for C++.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from harness import PACKAGES, Choices, parse_choices, report, stamp
from torch.nn import functional
from training.models import Gpt, Vit, export

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.data import Examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

COMPILER = "--torch-compile"
LEARNING_RATE = 0.01
COLUMNS = {
    "model": "s",
    "length": "d",
    "batch": "d",
    "threads": "d",
    "ours_ms": ".1f",
    "torch_ms": ".1f",
    "torch_compile_ms": ".1f",
    "ratio": ".3f",
    "loss_difference": ".1e",
}


@dataclass(frozen=True)
class Case:
    """A model and what it is trained on.

    Attributes:
        model: ``gpt``: that of nanoGPT's example of characters. ``vit``: of DeiT-Tiny's sizes.
        length: Tokens, or patches of an image.
        batch: Examples a step.
    """

    model: str
    length: int
    batch: int

    def module(self) -> nn.Module:
        """Return the torch module, the same each time."""
        torch.manual_seed(0)
        if self.model == "gpt":
            return Gpt(width=384, heads=6, layers=6, vocabulary=65, positions=self.length)
        return Vit(width=192, heads=3, layers=12, image=self.image, patch=16, classes=100)

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of an image of so many patches of 16 x 16."""
        return 256, self.length * 16 * 16 // 256

    def examples(self) -> Examples:
        """Return one batch."""
        generator = np.random.default_rng(0)
        if self.model == "gpt":
            ids = generator.integers(0, 65, (self.batch, self.length + 1))
            return Examples({"ids": ids[:, :-1].copy()}, ids[:, 1:].copy())
        pixels = generator.standard_normal((self.batch, 3, *self.image)).astype(np.float32)
        return Examples({"pixels": pixels}, generator.integers(0, 100, self.batch))


CASES = (
    Case("gpt", 256, 4),
    Case("gpt", 512, 4),
    Case("vit", 256, 4),
    Case("vit", 512, 4),
)


def make_ours(case: Case, threads: int) -> Callable[[], float]:
    """Return a training step of the backend, which returns the loss."""
    examples = case.examples()
    inputs = {name: torch.from_numpy(array) for name, array in examples.inputs.items()}
    model = export(case.module(), inputs, is_training=True)
    artifact = hocket.compile(model, dims={"batch": case.batch}, num_threads=threads).artifact
    backend = CompiledBackend(artifact, Task("tokens" if case.model == "gpt" else "classes"))
    training = LocalTraining(batch_size=case.batch, learning_rate=LEARNING_RATE)
    return lambda: backend.train(training, examples, 0).metrics["loss"]


def make_torch(case: Case, *, is_compiled: bool) -> Callable[[], float]:
    """Return the same step in torch, as the module is or as its compiler makes it."""
    module, examples = case.module().train(), case.examples()
    run = torch.compile(module) if is_compiled else module
    (array,) = examples.inputs.values()
    inputs, targets = torch.from_numpy(array), torch.from_numpy(examples.targets)
    optimizer = torch.optim.SGD(module.parameters(), LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        scores = run(inputs)
        loss = functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare(case: Case, threads: int, seconds: float, *, has_compiler: bool) -> dict[str, Any]:
    """Return a row: the medians of steps that took turns for some seconds."""
    torch.set_num_threads(threads)
    steps = {"ours": make_ours(case, threads), "torch": make_torch(case, is_compiled=False)}
    if has_compiler:
        steps["torch_compile"] = make_torch(case, is_compiled=True)
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses = {name: [step() for _ in range(3)][-1] for name, step in steps.items()}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times["torch"]) < 5:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "model": case.model,
        "length": case.length,
        "batch": case.batch,
        "threads": threads,
        **{f"{name}_ms": median * 1e3 for name, median in medians.items()},
        "ratio": medians["torch"] / medians["ours"],
        # Of the third step: both have learned the same by then.
        "loss_difference": abs(losses["ours"] - losses["torch"]),
        "num_steps": len(times["ours"]),
    }


def measure(choices: Choices, *, has_compiler: bool) -> list[dict[str, Any]]:
    """Return a row for each case and number of threads."""
    cases = (Case("gpt", 256, 1), Case("vit", 256, 1)) if choices.quick else CASES
    threads = choices.threads[:1] if choices.quick else choices.threads
    seconds = 2.0 if choices.quick else 15.0
    return [
        compare(case, count, seconds, has_compiler=has_compiler)
        for count in threads
        for case in cases
    ]


if __name__ == "__main__":
    QUESTION = "a training step from an artifact beside plain torch (timed)"
    chosen, switches = parse_choices(QUESTION, (COMPILER,))
    rows = measure(chosen, has_compiler=COMPILER in switches)
    report(
        QUESTION,
        rows,
        {name: form for name, form in COLUMNS.items() if name in rows[0]},
        chosen,
        notes=("ratio: plain torch's median time over ours; above 1 ours is faster",),
        about=stamp((*PACKAGES, "torch")),
    )
