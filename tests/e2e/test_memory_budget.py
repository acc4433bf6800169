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
from hocket.fl.core.types import ClientTask
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.frozen import FrozenModules

if TYPE_CHECKING:
    from pathlib import Path

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


def test_accuracies_are_measured_on_as_many_examples_at_once_as_fit() -> None:
    cascade = digit_cascade(0.93)
    client, last = DigitClients(cascade)(), len(cascade) - 1
    spans, parameters = client.spans, client.spans.parameters()
    images = Digits().held_out("device-0").inputs["pixels"]
    frozen, piece = FrozenModules(spans, cascade.modules[:last]), cascade.piece(last, last)
    with spans.meter(piece, len(images), 0, frozen.spans) as meter:
        frozen.gradient(piece, images, np.zeros(len(images), np.int64))
    sizes: list[int] = []
    whole = spans.pull_back

    def counted(start: str, stop: str, inputs: Any, gradient: Any) -> Any:
        sizes.append(len(inputs))
        return whole(start, stop, inputs, gradient)

    spans.pull_back = counted  # type: ignore[method-assign]
    found = []
    for budget, most in ((0, len(images)), (meter.peak_bytes // 3, len(images) // 2)):
        sizes.clear()
        wanted = StageTask(
            work="score", stage=last, last=last, input_radius=0.1, budget_bytes=budget
        )
        task = ClientTask(1, "device-0", "train", 3, wanted.to_config())
        found.append(client.run(task, parameters).metrics)
        assert sizes[-1] <= most
    assert found[0]["clean_accuracy"] == found[1]["clean_accuracy"]
    assert found[0]["adversarial_accuracy"] == pytest.approx(
        found[1]["adversarial_accuracy"], abs=0.03
    )


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
