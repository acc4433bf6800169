"""Losses and metrics beside their definitions in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hocket.fl.backends.task import Task, check_targets, measure, metrics_of
from hocket.fl.core.errors import ConfigError

CLASSES, TOKENS = Task(), Task("tokens")


def _log_softmax(scores: Any) -> Any:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_loss_is_the_mean_cross_entropy_of_what_counts() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 3))
    targets = np.array([2, -100, 0, 1])
    found = measure(CLASSES, torch.from_numpy(scores), targets)
    counted = [0, 2, 3]
    wanted = -_log_softmax(scores)[counted, targets[counted]]
    np.testing.assert_allclose(found.loss.item(), wanted.mean(), rtol=1e-12)
    assert found.num_counted == 3
    assert found.num_right == (scores[counted].argmax(axis=1) == targets[counted]).sum()


def test_every_place_of_a_text_counts() -> None:
    scores = np.random.default_rng(1).standard_normal((2, 3, 5))
    targets = np.array([[4, 0, 1], [-100, 2, 2]])
    found = measure(TOKENS, torch.from_numpy(scores), targets)
    rows, places = np.nonzero(targets >= 0)
    wanted = -_log_softmax(scores)[rows, places, targets[rows, places]]
    np.testing.assert_allclose(found.loss.item(), wanted.mean(), rtol=1e-12)
    assert metrics_of(TOKENS, 10.0, 5, 0) == {"loss": 2.0}


def test_scores_of_sixteen_bits_are_summed_in_float32() -> None:
    scores = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    targets = np.arange(8) % 5
    found = measure(CLASSES, scores, targets).loss
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, measure(CLASSES, scores.float(), targets).loss)


def test_nothing_that_counts_is_no_loss() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    found = measure(CLASSES, scores, np.array([-100, -100]))
    found.loss.backward()
    assert (found.loss.item(), found.num_counted) == (0.0, 0)
    assert scores.grad is not None
    assert not scores.grad.any()
    assert metrics_of(CLASSES, 0.0, 0, 0) == {"loss": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize(
    ("task", "targets", "shape", "message"),
    [
        (CLASSES, np.zeros(2, np.int64), (2, 3, 4), "wants scores of rank 2"),
        (TOKENS, np.zeros((2, 3), np.int64), (2, 4), "wants scores of rank 3"),
        (CLASSES, np.zeros(2), (2, 3), "must be integers, got float64"),
        (TOKENS, np.zeros((2, 3), np.int64), (2, 4, 5), "of shape .2, 3. do not go with"),
        (CLASSES, np.array([0, 3]), (2, 3), "must be 0 to 2, or -100"),
        (CLASSES, np.array([0, -1]), (2, 3), "got -1 to 0"),
    ],
)
def test_targets_that_do_not_go_with_scores_are_refused(
    task: Task, targets: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_targets(task, targets, shape)


def test_a_task_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match="'classes' or 'tokens', got 'numbers'"):
        Task("numbers")  # type: ignore[arg-type]
