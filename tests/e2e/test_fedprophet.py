"""A federation that trains a classifier of real digits to be robust, module by module."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.digits import (
    TRAINING,
    DigitClients,
    Digits,
    digit_cascade,
    digit_footprint,
)
from support.federation import StandingClock

from hocket.fl.core.backend import Span
from hocket.fl.core.coordinator import Coordinator, Plan, Progress
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.store import FolderStore, MemoryStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.fat.assignment import Resources, SpanCost
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.evaluation import Robustness, accuracy_under
from hocket.fl.fat.partition import Cascade, whole_model
from hocket.fl.fat.stage import StageState
from hocket.fl.fat.strategy import CascadeSettings, FedProphet

if TYPE_CHECKING:
    from collections.abc import Iterator

RADIUS = 0.2
SETTINGS = CascadeSettings(
    rounds_per_stage=16,
    warm_up=2,
    patience=10,
    settle=1,
    adjust_every=2,
    input_radius=RADIUS,
    steps=5,
    measure_steps=5,
    fraction_train=0.5,
)
WHOLE_PEAK = digit_footprint(Span(is_attacked=True)).peak_bytes


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let small models be computed by one thread; more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _costs(cascade: Cascade) -> dict[tuple[int, int], SpanCost]:
    found = {}
    for first in range(len(cascade)):
        for last in range(first, len(cascade)):
            cost = digit_footprint(cascade.piece(first, last).span)
            found[first, last] = SpanCost(cost.peak_bytes, cost.flops)
    return found


def federation(cascade: Cascade, store: Any = None, **changes: Any) -> Coordinator:
    settings = replace(SETTINGS, **changes.pop("settings", {}))
    return Coordinator(
        plan=Plan("digits", num_rounds=60, seed=3),
        strategy=FedProphet(cascade, settings=settings, training=TRAINING, **changes),
        engine=InProcessEngine(DigitClients(cascade), StandingClock()),
        scheduler=FifoScheduler(),
        store=store or MemoryStore(),
        clock=StandingClock(),
    )


def run(coordinator: Coordinator, cascade: Cascade) -> Progress:
    return coordinator.run(coordinator.begin(DigitClients(cascade).spans().parameters()))


def robustness(cascade: Cascade, progress: Progress) -> Robustness:
    """Measure the composed model on what no device has seen."""
    spans = DigitClients(cascade).spans()
    spans.load_parameters(progress.state.parameters)
    return accuracy_under(spans, Digits().held_out(), Linf(RADIUS), Attack(20, restarts=2), 0)


@functools.cache
def trained() -> Progress:
    cascade = digit_cascade(0.93)
    return run(federation(cascade), cascade)


def test_modules_that_are_trained_one_by_one_make_a_robust_model() -> None:
    cascade = digit_cascade(0.93)
    assert len(cascade) == 2
    found = robustness(cascade, trained())
    clean_only = run(
        federation(
            whole := whole_model(planner_without_exits().owned),
            settings={"rounds_per_stage": 8, "warm_up": 8},
        ),
        whole,
    )
    undefended = robustness(whole, clean_only)
    assert found.clean > 0.9
    assert undefended.clean > 0.9
    assert found.attacked > undefended.attacked + 0.1


def planner_without_exits() -> Any:
    return DigitClients(whole_model(lambda _: frozenset())).spans()


def test_stages_follow_each_other_and_then_it_is_finished() -> None:
    progress = trained()
    measured = [report for report in progress.reports if "displacement" in report.train_metrics]
    assert len(measured) == 1
    assert measured[0].train_metrics["displacement"] > 0
    assert StageState.from_arrays(progress.state.kept).number == 2
    assert progress.round < 60
    assert not any(report.failures for report in progress.reports)


def test_one_stage_changes_its_own_module_alone() -> None:
    cascade = digit_cascade(0.93)
    coordinator = federation(cascade)
    start = DigitClients(cascade).spans().parameters()
    progress = coordinator.run_round(coordinator.begin(start))
    first = cascade.modules[0]
    changed = {
        name for name, array in progress.state.parameters.items() if (array != start[name]).any()
    }
    assert changed == first.owned | first.exit_owned


def test_a_federation_that_is_killed_goes_on_with_the_same_bits(tmp_path: Any) -> None:
    cascade, settings = digit_cascade(0.93), {"rounds_per_stage": 3, "warm_up": 1, "settle": 0}
    whole = run(federation(cascade, settings=settings), cascade)
    store = FolderStore(tmp_path)
    progress = (first := federation(cascade, store, settings=settings)).begin(
        DigitClients(cascade).spans().parameters()
    )
    while not first.strategy.is_finished(progress.state):
        progress = federation(cascade, store, settings=settings).resume()
        progress = federation(cascade, store, settings=settings).run_round(progress)
    assert progress.digest == whole.digest
    assert progress.round == whole.round


def test_later_modules_may_be_attacked_at_the_input_within_the_same_budget() -> None:
    cascade = digit_cascade(0.93)
    budget = int(0.93 * WHOLE_PEAK)
    settings = {"attack": "input", "rounds_per_stage": 2, "warm_up": 0, "settle": 0}
    coordinator = federation(cascade, settings=settings, budget_bytes=budget)
    progress = run(coordinator, cascade)
    assert not any(report.failures for report in progress.reports)
    metrics = [report.train_metrics for report in progress.reports]
    assert not any("displacement" in each for each in metrics)
    held = [each["held_bytes"] for each in metrics if "held_bytes" in each]
    assert len(held) == 4
    assert max(held) <= 1.002 * budget
    before = DigitClients(cascade).spans().parameters()
    after = progress.state.parameters
    for module in cascade.modules:
        assert any((after[name] != before[name]).any() for name in module.owned)


@pytest.mark.parametrize("prophet", [0.0, 0.5, 1.0])
def test_devices_with_memory_to_spare_train_further_modules(prophet: float) -> None:
    cascade = digit_cascade(0.93)
    costs = _costs(cascade)

    def available(seed: int, round_number: int, devices: Any) -> dict[str, Resources]:
        del seed, round_number
        small, large = costs[0, 0].memory_bytes, 10 * WHOLE_PEAK
        return {
            device.device_id: Resources(*((large, 1e12) if number % 2 else (small, 1e6)))
            for number, device in enumerate(devices)
        }

    coordinator = federation(
        cascade, costs=costs, available=available, settings={"prophet": prophet}
    )
    start = DigitClients(cascade).spans().parameters()
    progress = coordinator.begin(start)
    devices = coordinator.engine.devices()
    tasks = coordinator.strategy.configure(progress.state, 1, devices, 3, "train")
    last = [StageTask.from_config(task.config).last for task in tasks]
    assert last == ([0, 1, 0, 1, 0, 1] if prophet else [0] * 6)
    progress = coordinator.run_round(progress)
    assert not progress.reports[0].failures
    second = cascade.modules[1].owned
    changed = {n for n, array in progress.state.parameters.items() if (array != start[n]).any()}
    assert (second <= changed) == (prophet > 0)


def test_devices_without_the_memory_get_no_task() -> None:
    cascade = digit_cascade(0.93)

    def available(seed: int, round_number: int, devices: Any) -> dict[str, Resources]:
        del seed, round_number
        return {device.device_id: Resources(1.0, 1e9) for device in devices}

    coordinator = federation(cascade, costs=_costs(cascade), available=available)
    progress = coordinator.begin(DigitClients(cascade).spans().parameters())
    report = coordinator.run_round(progress).reports[0]
    assert report.num_tasks == 0
    assert not report.has_quorum


def test_devices_measure_the_composed_model_when_the_plan_evaluates() -> None:
    cascade = digit_cascade(0.93)
    coordinator = federation(cascade, settings={"fraction_evaluate": 0.5, "warm_up": 1})
    spans = DigitClients(cascade).spans()
    progress = coordinator.run_round(coordinator.begin(spans.parameters()))
    found = progress.reports[0].evaluate_metrics
    devices = coordinator.engine.devices()
    tasks = coordinator.strategy.configure(progress.state, 1, devices, 3, "evaluate")
    assert len(tasks) == 3
    spans.load_parameters(progress.state.parameters)
    wanted = [
        spans.evaluate(Digits().held_out(task.device_id)).metrics["accuracy"] for task in tasks
    ]
    assert found["clean_accuracy"] == pytest.approx(sum(wanted) / len(wanted))
    assert 0 <= found["adversarial_accuracy"] <= found["clean_accuracy"]
