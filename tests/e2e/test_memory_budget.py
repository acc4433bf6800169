"""Devices keep to their memory: what training holds is measured, and more of it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.digits import DigitClients, Digits, digit_cascade
from support.prophet_federation import FAMILY, write_prophet, write_widths

from hocket.federation import prepare_federation
from hocket.federation_launch import launch
from hocket.fl.config import load_config
from hocket.fl.core.spans import Piece
from hocket.fl.fat.cascade import StageTask

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.fl.core.types import ClientTask

BUDGET = 460_000


class Watch:
    """Keeps what devices were told."""

    def __init__(self) -> None:
        self.tasks: list[ClientTask] = []

    def started(self, round_number: int, tasks: Any) -> None:
        del round_number
        self.tasks += tasks

    def replied(self, reply: object) -> None:
        del reply

    def finished(self, report: object) -> None:
        del report


def run(folder: Path, method: str = "fedprophet", section: str = "", **changes: Any) -> Any:
    path = write_prophet(folder, method, section=section)
    federation = prepare_federation(load_config(path, {"federation.folder": "budget"}))
    strategy: Any = federation.strategy
    budget = changes.get("budget", BUDGET)
    federation = replace(federation, strategy=replace(strategy, budget_bytes=budget))
    watch = Watch()
    return launch(federation, [watch]), watch


def test_what_modules_hold_is_measured_and_within_the_budget(tmp_path: Path) -> None:
    result, watch = run(tmp_path)
    held = [each.train_metrics["held_bytes"] for each in result.reports
            if "held_bytes" in each.train_metrics]  # fmt: skip
    assert len(held) == 2
    assert all(0.5 * BUDGET < each <= BUDGET for each in held)
    assert {task.config["cascade.budget_bytes"] for task in watch.tasks} == {BUDGET}


def test_examples_are_attacked_as_many_at_once_as_fit() -> None:
    cascade, images = digit_cascade(0.93), Digits().load("device-0").inputs["pixels"]
    clients = DigitClients(cascade)()
    last = len(cascade) - 1
    piece = Piece("", cascade.piece(last, last).exits)
    peaks = {}
    for count in (64, 32, 16):
        with clients.spans.meter(piece, count) as meter:
            clients.spans.gradient(piece, images[:count], np.zeros(count, np.int64))
        peaks[count] = meter.peak_bytes
    for count, budget in (
        (64, 0),
        (64, peaks[64]),
        (32, peaks[64] - 9000),
        (16, peaks[16]),
        (1, 9),
    ):
        wanted = StageTask(stage=last, last=last, budget_bytes=budget)
        assert clients._num_within(wanted, piece, images) == count


def test_counting_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    assert run(tmp_path, budget=10**9)[0].digest == run(tmp_path, budget=0)[0].digest


def test_a_device_that_would_hold_more_names_the_module_and_what_to_do(tmp_path: Path) -> None:
    result, _ = run(tmp_path, budget=300_000)
    first = result.reports[0]
    assert (first.num_updates, first.num_failures, first.has_quorum) == (0, 3, False)
    for failure in first.failures[:3]:
        assert "BudgetError: module 0, input to" in failure
        assert "in batches of 16 holds 3" in failure
        assert "measured, and may hold 300,600; cut the model for less memory" in failure


@pytest.mark.parametrize("method", ["fedrolex", "feddf"])
def test_narrow_models_keep_to_the_budget(method: str, tmp_path: Path) -> None:
    write_widths(tmp_path)
    path = write_prophet(tmp_path, method, rounds=1, section=FAMILY)
    few = {"strategy.distillation-steps": 1} if method == "feddf" else {}
    result = launch(prepare_federation(load_config(path, few)))
    (report,) = result.reports
    assert not report.failures
    assert 0.2 * BUDGET < report.train_metrics["held_bytes"] <= BUDGET
