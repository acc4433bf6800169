"""Attacks: they stay in their ball, and find what there is to find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from hocket.fl.core.errors import ConfigError
from hocket.fl.fat.attack import L2, Attack, Linf, lengths, perturb

if TYPE_CHECKING:
    from hocket.fl.fat.attack import Ball

SLACK = 1e-5  # of float32, relative
SHAPES = st.sampled_from([(3, 7), (2, 3, 4), (4, 2, 3, 3)])


def _examples(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def _is_within(ball: Ball, point: Any, origin: Any) -> bool:
    change = (point - origin).astype(np.float64)
    if isinstance(ball, Linf):
        is_near = np.abs(change).max() <= ball.radius + SLACK
        return bool(is_near and point.min() >= ball.low and point.max() <= ball.high)
    is_near = lengths(change).max() <= ball.radius * (1 + SLACK) + 1e-6
    assert isinstance(ball, L2)
    return bool(is_near and (point.min() >= 0 or not ball.is_positive))


@given(
    shape=SHAPES,
    seed=st.integers(0, 99),
    radius=st.floats(0, 3),
    is_linf=st.booleans(),
    is_positive=st.booleans(),
    scale=st.floats(0, 100),
)
def test_projections_stay_in_the_ball(
    shape: tuple[int, ...],
    seed: int,
    radius: float,
    is_linf: bool,
    is_positive: bool,
    scale: float,
) -> None:
    ball: Ball = Linf(radius) if is_linf else L2(radius, is_positive)
    origin = _examples(shape, seed)
    generator = np.random.default_rng(seed)
    assert _is_within(ball, ball.start(origin, generator), origin)
    far = origin + (scale * generator.standard_normal(shape)).astype(np.float32)
    near = ball.project(far, origin)
    assert near.dtype == origin.dtype
    assert _is_within(ball, near, origin)
    np.testing.assert_allclose(ball.project(near, origin), near, rtol=1e-5, atol=1e-6)


@given(
    shape=SHAPES,
    seed=st.integers(0, 99),
    radius=st.floats(0.01, 2),
    steps=st.integers(1, 6),
    restarts=st.integers(1, 2),
    keep=st.sampled_from(["last", "best"]),
    is_linf=st.booleans(),
)
def test_whatever_the_gradients_are_the_result_is_in_the_ball(
    shape: tuple[int, ...],
    seed: int,
    radius: float,
    steps: int,
    restarts: int,
    keep: Any,
    is_linf: bool,
) -> None:
    ball: Ball = Linf(radius) if is_linf else L2(radius, is_positive=True)
    origin, generator = _examples(shape, seed), np.random.default_rng(seed)
    attack = Attack(steps, restarts=restarts if keep == "best" else 1, keep=keep)

    def gradient(point: Any) -> Any:
        assert _is_within(ball, point, origin)
        return generator.standard_normal(len(point)), generator.standard_normal(point.shape).astype(
            np.float32
        ) * 1000

    found = perturb(attack, ball, origin, gradient, lambda point: gradient(point)[0], generator)
    assert _is_within(ball, found, origin)


def test_on_a_linear_loss_the_corner_of_the_ball_is_found() -> None:
    """It is known there: no other point of the ball has a greater loss."""
    generator = np.random.default_rng(0)
    slope = generator.standard_normal((4, 6)).astype(np.float32)
    origin = generator.uniform(0.3, 0.7, (4, 6)).astype(np.float32)

    def gradient(point: Any) -> Any:
        return (slope * point).sum(axis=1), slope

    for ball, wanted in (
        (Linf(0.2), origin + 0.2 * np.sign(slope)),
        (L2(0.2), origin + 0.2 * slope / lengths(slope)),
    ):
        found = perturb(
            Attack(100, step_size=0.05),
            ball,
            origin,
            gradient,
            lambda point: gradient(point)[0],
            generator,
        )
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_best_point_of_all_is_kept() -> None:
    """A loss that oscillates: the last point is not the worst."""
    origin = np.full((1, 1), 0.5, np.float32)
    seen = []

    def gradient(point: Any) -> Any:
        loss = -np.abs(point[:, 0] - 0.6)
        seen.append(float(loss[0]))
        return loss, -np.sign(point - 0.6)

    def losses(point: Any) -> Any:
        return gradient(point)[0]

    attack = Attack(7, step_size=0.07, restarts=3)
    found = perturb(attack, Linf(0.4), origin, gradient, losses, np.random.default_rng(0))
    assert losses(found)[0] == max(seen)


def _torch_pgd(weights: Any, origin: Any, targets: Any, radius: float, steps: int) -> Any:
    """Return what the attack of Madry et al., written in torch, makes of examples."""
    point = origin + torch.empty_like(origin).uniform_(-radius, radius)
    point = point.clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        functional.cross_entropy(_scores(weights, point), targets).backward()
        point = point + 2.5 * radius / steps * point.grad.sign()
        point = torch.minimum(torch.maximum(point, origin - radius), origin + radius).clamp(0, 1)
    return point.detach()


def _scores(weights: Any, point: torch.Tensor) -> torch.Tensor:
    return torch.tanh(point @ weights[0]) @ weights[1]


def test_it_is_as_strong_as_torchs() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(20, 40), torch.randn(40, 5)]
    origin = torch.rand(200, 20)
    targets = _scores(weights, origin).argmax(dim=1)

    def gradient(point: Any) -> Any:
        leaf = torch.from_numpy(point).requires_grad_()
        losses = functional.cross_entropy(_scores(weights, leaf), targets, reduction="none")
        losses.sum().backward()
        return losses.detach().numpy(), leaf.grad.numpy()  # type: ignore[union-attr]

    def accuracy(point: torch.Tensor) -> float:
        return float((_scores(weights, point).argmax(dim=1) == targets).float().mean())

    theirs = accuracy(_torch_pgd(weights, origin, targets, 0.05, 20))
    found = perturb(
        Attack(20),
        Linf(0.05),
        origin.numpy(),
        gradient,
        lambda point: gradient(point)[0],
        np.random.default_rng(0),
    )
    ours = accuracy(torch.from_numpy(found))
    assert 0.2 < theirs < 0.9
    assert ours <= theirs + 0.01
    stronger = perturb(
        Attack(20),
        Linf(0.2),
        origin.numpy(),
        gradient,
        lambda point: gradient(point)[0],
        np.random.default_rng(0),
    )
    assert accuracy(torch.from_numpy(stronger)) < ours - 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Attack(0),
        lambda: Attack(restarts=0),
        lambda: Attack(keep="first"),
        lambda: Attack(keep="last", restarts=2),
        lambda: Linf(-1.0),
        lambda: Linf(0.1, 1.0, 0.0),
        lambda: L2(-1.0),
    ],
    ids=["steps", "restarts", "keep", "last", "linf", "bounds", "l2"],
)
def test_settings_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
