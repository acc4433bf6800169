"""Models that are trained in tests: the torch module, its artifact, and examples for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.training_models import Bert, Lenet, Llama, Resnet
from torch.nn import functional
from training.models import Gpt, Vit, export

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.data import Examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from hocket.runtime.artifact import Artifact

LENGTH, VOCABULARY, MOST = 16, 61, 8


@dataclass(frozen=True)
class TrainingCase:
    """A model that is trained.

    Attributes:
        module: Makes it, with random parameters.
        examples: Makes so many examples by a generator.
        targets: What a ``Task`` calls them.
        frozen: Patterns of weights that torch does not train either.
        opset: Of its ONNX file.
    """

    module: Callable[[], nn.Module]
    examples: Callable[[np.random.Generator, int], Examples]
    targets: Any = "classes"
    frozen: tuple[str, ...] = ()
    opset: int = 18

    @property
    def task(self) -> Task:
        return Task(self.targets)

    def new_module(self) -> nn.Module:
        """Return the module, in training, with the same parameters each time."""
        torch.manual_seed(0)
        return self.module().train()

    def new_examples(self, count: int = MOST, seed: int = 0) -> Examples:
        return self.examples(np.random.default_rng(seed), count)


def _images(size: int, channels: int, classes: int) -> Callable[..., Examples]:
    def make(generator: np.random.Generator, count: int) -> Examples:
        pixels = generator.standard_normal((count, channels, size, size)).astype(np.float32)
        return Examples({"pixels": pixels}, generator.integers(0, classes, count))

    return make


def _texts(generator: np.random.Generator, count: int) -> Examples:
    ids = generator.integers(0, VOCABULARY, (count, LENGTH + 1))
    return Examples({"ids": ids[:, :-1].copy()}, ids[:, 1:].copy())


def _padded(generator: np.random.Generator, count: int) -> Examples:
    ids = generator.integers(0, VOCABULARY, (count, LENGTH))
    mask = np.arange(LENGTH) < generator.integers(4, LENGTH + 1, (count, 1))
    return Examples({"ids": ids, "mask": mask}, generator.integers(0, 4, count))


TRAINING_CASES = {
    "resnet": TrainingCase(Resnet, _images(16, 3, 5)),
    "lenet": TrainingCase(Lenet, _images(28, 1, 10)),
    "vit": TrainingCase(Vit, _images(16, 3, 5)),
    "gpt": TrainingCase(Gpt, _texts, "tokens"),
    "bert": TrainingCase(Bert, _padded),
    "llama": TrainingCase(Llama, _texts, "tokens", frozen=("rates",), opset=23),
}
"""By name."""

LEGACY_CASES = ("resnet", "lenet", "vit", "gpt", "bert")
"""Those that torch's older exporter can write, too; it knows no root mean squares."""


@functools.cache
def compiled(name: str, exporter: str = "legacy", least: int = 1, most: int = MOST) -> Artifact:
    """Return the artifact of a case, for batches from ``least`` to ``most``."""
    case = TRAINING_CASES[name]
    inputs = {each: torch.from_numpy(array) for each, array in case.new_examples(2).inputs.items()}
    opset = 17 if exporter == "legacy" else case.opset
    model = export(case.new_module(), inputs, exporter=exporter, opset=opset, is_training=True)
    batch: Any = most if least == most else (least, most)
    return hocket.compile(model, dims={"batch": batch}).artifact


def new_backend(name: str, exporter: str = "", **settings: Any) -> CompiledBackend:
    """Return a backend of a case; by the older exporter if that can write it."""
    case = TRAINING_CASES[name]
    exporter = exporter or ("legacy" if name in LEGACY_CASES else "dynamo")
    sizes = {each: settings.pop(each) for each in ("least", "most") if each in settings}
    return CompiledBackend(
        compiled(name, exporter, **sizes), case.task, frozen=case.frozen, **settings
    )


def torch_loss(module: nn.Module, examples: Examples) -> torch.Tensor:
    """Return the mean cross entropy of a module."""
    scores = module(*(torch.from_numpy(array) for array in examples.inputs.values()))
    return functional.cross_entropy(
        scores.reshape(-1, scores.shape[-1]), torch.from_numpy(examples.targets).reshape(-1)
    )


def state_of(module: nn.Module, like: dict[str, Any]) -> dict[str, Any]:
    """Return a module's arrays by the names that a backend's parameters have.

    Exporters keep names, except where a parameter has two (tied ones): then one of them.
    """
    state = {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}
    missing = sorted(like.keys() - state.keys())
    if missing:
        raise KeyError(f"the module has no {missing}")
    return {name: state[name] for name in like}
