"""What is held is counted by its bytes, and stopped where it is too much."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from support.digits import TRAINING, DigitClients, all_digits, digit_cascade, digit_footprint

from hocket.fl.backends.memory_meter import MemoryMeter
from hocket.fl.core.errors import BudgetError
from hocket.fl.fat.attack import L2, Attack, Linf
from hocket.fl.fat.evaluation import attack_piece

KILO = 1000  # bytes of 250 floats


def test_bytes_of_what_is_alive_are_counted() -> None:
    held = torch.zeros(250)
    with MemoryMeter([held, held.view(10, 25)]) as meter:
        assert meter.live_bytes == KILO
        one = held + 1
        assert meter.live_bytes == 2 * KILO
        one.add_(1)  # in its place
        part = one[10:]  # shares it
        del one
        assert meter.live_bytes == 2 * KILO
        array = part.numpy()
        del part
        assert meter.live_bytes == 2 * KILO  # numpy has it still
        two, three = held.clone(), held.clone()
        assert meter.live_bytes == 4 * KILO
        del array, two, three
        gc.collect()
        assert meter.live_bytes == KILO
    assert meter.peak_bytes == 4 * KILO


def test_what_autograd_keeps_is_counted() -> None:
    wanted = torch.ones(250, requires_grad=True)
    with MemoryMeter([wanted]) as meter:
        result = wanted.exp().sin().sum()
        # The exponential is kept twice but is one; the sine of it is not kept.
        assert meter.live_bytes == 2 * KILO + result.nbytes
        result.backward()
        del result
        assert meter.live_bytes == 2 * KILO  # the gradient


def test_more_than_the_limit_is_stopped_at_once() -> None:
    held = torch.zeros(250)
    meter, made = MemoryMeter([held], 3 * KILO), []
    wanted = "holds 4,000 bytes, measured, and may hold 3,000"
    with meter, pytest.raises(BudgetError, match=wanted):
        made.extend(held.clone() for _ in range(9))
    assert len(made) <= 2
    made.append(held.clone())  # no longer counted
    assert meter.peak_bytes == 3 * KILO


def test_of_what_visits_one_group_at_a_time_is_counted() -> None:
    held, one, other = torch.zeros(250), torch.zeros(500), torch.zeros(750)
    with MemoryMeter([held], visiting=[[one], [other, other.view(10, 75)]]) as meter:
        assert meter.live_bytes == KILO
        one.sum()
        assert meter.live_bytes == 3 * KILO  # what operators make is gone again
        one.detach()
        other.sum()
        assert meter.live_bytes == 4 * KILO
        torch.zeros(1)
        assert meter.live_bytes == 4 * KILO  # until something else is read
        held.sum()
        assert meter.live_bytes == KILO
    with MemoryMeter([held], 3 * KILO + 8, [[one], [other]]):
        one.sum()
        with pytest.raises(BudgetError):
            other.sum()


@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (0, 1)])
def test_modules_hold_what_they_were_predicted_to(first: int, last: int) -> None:
    cascade = digit_cascade(0.93)
    spans, piece = DigitClients(cascade).spans(), cascade.piece(first, last, convexity=1e-5)
    images, targets = all_digits()
    inputs, wanted = images[:32], targets[:32]
    if piece.start:
        inputs = spans.features("", piece.start, inputs)
    ball = L2(1.0, is_positive=True) if piece.start else Linf(0.1)
    steps, generator = spans.train_piece(piece, TRAINING, 0), np.random.default_rng(0)
    with spans.meter(piece, 32) as meter:
        for _ in range(2):
            attack = Attack(2, keep="last")
            moved = attack_piece(spans, piece, attack, ball, inputs, wanted, generator)
            steps.step(moved, wanted)
    assert meter.peak_bytes == pytest.approx(digit_footprint(piece.span).peak_bytes, rel=0.02)
