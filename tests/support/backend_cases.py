"""Backends for the conformance suite, each with its model written in plain torch beside it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.federation import CLASSES, FEATURES, SoftmaxRegression
from support.training_cases import MOST, TRAINING_CASES, new_backend
from torch.func import functional_call
from torch.nn import functional

from hocket.fl.core.data import Examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.core.backend import Backend

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BackendCase:
    """A backend and what it is to compute.

    Attributes:
        new: Returns it as a federation begins.
        examples: Returns so many examples, drawn by a seed.
        loss: The mean loss of parameters, in plain torch; whether it is in training says the last
            argument. Running statistics among the parameters change there.
        input_name: An input of floating-point numbers; empty if there is none.
        is_classifier: Whether accuracy is measured.
        tolerance: Of results, as ``numpy.testing`` has it.
    """

    new: Callable[[], Backend]
    examples: Callable[[int, int], Examples]
    loss: Callable[[Tensors, Examples, bool], torch.Tensor]
    input_name: str
    is_classifier: bool
    tolerance: dict[str, float]


def leaves_of(parameters: Any) -> Tensors:
    """Return parameters as tensors that are differentiated, but for running statistics."""
    found = {name: torch.from_numpy(array.copy()) for name, array in parameters.items()}
    return {
        name: tensor if "running" in name else tensor.requires_grad_()
        for name, tensor in found.items()
    }


def _tensors(examples: Examples) -> list[torch.Tensor]:
    return [
        array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
        for array in examples.inputs.values()
    ]


def _module_loss(name: str) -> Callable[[Tensors, Examples, bool], torch.Tensor]:
    def loss(parameters: Tensors, examples: Examples, is_training: bool) -> torch.Tensor:
        module = TRAINING_CASES[name].new_module().train(is_training)
        scores = functional_call(module, parameters, tuple(_tensors(examples)))
        wanted = torch.from_numpy(examples.targets).reshape(-1)
        return functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), wanted)

    return loss


def _regression_loss(parameters: Tensors, examples: Examples, _training: bool) -> torch.Tensor:
    (features,) = _tensors(examples)
    scores = features @ parameters["weight"] + parameters["bias"]
    return functional.cross_entropy(scores, torch.from_numpy(examples.targets))


def _blobs(count: int, seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((count, FEATURES))
    return Examples({"features": features}, generator.integers(0, CLASSES, count))


def _compiled(name: str, **sizes: int) -> BackendCase:
    case = TRAINING_CASES[name]
    return BackendCase(
        new=functools.partial(new_backend, name, **sizes),
        examples=case.new_examples,
        loss=_module_loss(name),
        input_name="pixels" if name in ("resnet", "lenet", "vit") else "",
        is_classifier=case.targets == "classes",
        # Sums of some hundred float32 products through a dozen layers, in another order.
        tolerance={"rtol": 2e-4, "atol": 2e-6},
    )


BACKEND_CASES = {
    "softmax-regression": BackendCase(
        new=SoftmaxRegression,
        examples=_blobs,
        loss=_regression_loss,
        input_name="features",
        is_classifier=True,
        tolerance={"rtol": 1e-9, "atol": 1e-12},
    ),
    **{f"compiled-{name}": _compiled(name) for name in TRAINING_CASES},
    # For one batch size only: smaller batches are filled up.
    "compiled-vit-fixed": _compiled("vit", least=MOST, most=MOST),
    "compiled-gpt-fixed": _compiled("gpt", least=MOST, most=MOST),
}
"""By name."""
