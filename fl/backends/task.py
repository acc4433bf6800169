"""What a model is trained to do, and how far it is from that."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters


@dataclass(frozen=True)
class Task:
    """What the targets of examples say about an output, which holds a score for each class.

    The loss is the cross entropy of the scores' softmax, in the mean over all targets that count.

    Attributes:
        targets: ``classes``: one an example, of scores ``[batch, classes]``. ``tokens``: one a
            place, of scores ``[batch, length, vocabulary]``; for a language model the token that
            comes next, so a place behind the tokens it is read from.
        output: Name of the output; empty for the model's first.
        ignored: A target of this number does not count.
    """

    targets: Literal["classes", "tokens"] = "classes"
    output: str = ""
    ignored: int = -100

    def __post_init__(self) -> None:
        if self.targets not in ("classes", "tokens"):
            raise ConfigError(f"targets must be 'classes' or 'tokens', got {self.targets!r}")


@dataclass(frozen=True)
class Measured:
    """What a batch came to.

    Attributes:
        loss: Mean over the targets that count; a scalar tensor, 0 if none does.
        num_counted: Targets that count.
        num_right: Of these, where the largest score is the target's.
    """

    loss: torch.Tensor
    num_counted: int
    num_right: int


def check_targets(task: Task, targets: NDArray[Any], scores_shape: tuple[int, ...]) -> None:
    """Check that targets go with scores.

    Args:
        task: What they are.
        targets: Of a batch or more; their first axis may be longer than that of the scores.
        scores_shape: Of a batch.

    Raises:
        ConfigError: They are no integers, of another shape, or not among the classes.
    """
    rank = 2 if task.targets == "classes" else 3
    if len(scores_shape) != rank:
        raise ConfigError(
            f"task {task.targets!r} wants scores of rank {rank}, the output has {scores_shape}"
        )
    if targets.dtype.kind not in "iu":
        raise ConfigError(f"targets must be integers, got {targets.dtype}")
    if targets.shape[1:] != scores_shape[1:-1]:
        raise ConfigError(
            f"targets of shape {list(targets.shape)} do not go with scores of {list(scores_shape)}"
        )
    counted = targets[targets != task.ignored]
    if counted.size and not 0 <= counted.min() <= counted.max() < scores_shape[-1]:
        raise ConfigError(
            f"targets must be 0 to {scores_shape[-1] - 1}, or {task.ignored} for one that does not "
            f"count; got {counted.min()} to {counted.max()}"
        )


def measure(task: Task, scores: torch.Tensor, targets: NDArray[Any]) -> Measured:
    """Return the loss of scores.

    Args:
        task: What the targets are.
        scores: ``[batch, classes]`` or ``[batch, length, vocabulary]``.
        targets: One a row of scores.
    """
    wanted = torch.from_numpy(targets.astype(np.int64, copy=False)).reshape(-1)
    rows = scores.reshape(-1, scores.shape[-1])
    counts = wanted != task.ignored
    num_counted = int(counts.sum())
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    total = functional.cross_entropy(rows, wanted, ignore_index=task.ignored, reduction="sum")
    num_right = 0
    if task.targets == "classes":
        num_right = int((rows.detach().argmax(dim=1) == wanted)[counts].sum())
    return Measured(total / max(num_counted, 1), num_counted, num_right)


def metrics_of(task: Task, total_loss: float, num_counted: int, num_right: int) -> dict[str, float]:
    """Return metrics by name, from sums over the targets that count."""
    count = max(num_counted, 1)
    metrics = {"loss": total_loss / count}
    if task.targets == "classes":
        metrics["accuracy"] = num_right / count
    return metrics


def find_constants(weights: Parameters, frozen: Sequence[str]) -> set[str]:
    """Return the weights that are no parameters: those named, and those that are not finite.

    Args:
        weights: Of a model.
        frozen: Patterns of names, such as ``embeddings.*``.

    Raises:
        ConfigError: A pattern is of no weight.
    """
    found = {name for name, array in weights.items() if not np.isfinite(array).all()}
    for pattern in frozen:
        matched = fnmatch.filter(weights, pattern)
        if not matched:
            raise ConfigError(f"frozen: no weight is like {pattern!r}; there are {list(weights)}")
        found.update(matched)
    return found
