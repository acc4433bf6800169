"""Stages of FedProphet's server: who is asked for what, and which model a stage ends with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientTask, ClientUpdate, Device
from hocket.fl.fat.cascade import ADVERSARIAL, CLEAN, DISPLACEMENT, StageTask
from hocket.fl.fat.partition import Cascade, CascadeModule
from hocket.fl.fat.stage import Phase, StageState
from hocket.fl.fat.strategy import CascadeSettings, FedProphet

CASCADE = Cascade(
    (
        CascadeModule(0, "", "middle", frozenset({"a"}), frozenset({"exit"})),
        CascadeModule(1, "middle", "", frozenset({"b"})),
    )
)
DEVICES = [Device(f"d{number}") for number in range(10)]
SETTINGS = CascadeSettings(
    rounds_per_stage=2, warm_up=0, settle=0, adjust_every=0, fraction_train=0.2
)


def strategy(**settings: Any) -> FedProphet:
    training = LocalTraining(learning_rate=0.1)
    return FedProphet(CASCADE, settings=replace(SETTINGS, **settings), training=training)


def begun(made: FedProphet) -> ServerState:
    return made.initialize({name: np.zeros(1) for name in ("a", "exit", "b")})


def answer(made: FedProphet, state: ServerState, task: ClientTask, accuracy: float) -> ClientUpdate:
    """Return what a device might send: all of its arrays one greater, and accuracies."""
    arrays = {name: array + 1 for name, array in made.returned(state, task).items()}
    metrics = {CLEAN: accuracy, ADVERSARIAL: accuracy / 2, DISPLACEMENT: 3.0}
    return ClientUpdate(task.round, task.device_id, "train", arrays, 4, metrics)


def go_on(made: FedProphet, state: ServerState, number: int, accuracy: float) -> ServerState:
    tasks = made.configure(state, number, DEVICES[:2], 0, "train")
    return made.aggregate(state, [answer(made, state, task, accuracy) for task in tasks])


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [((0.1, 0.2, 0.3), 2), ((0.1, 0.3, 0.2), 1), ((0.3, 0.2, 0.1), 0)],
    ids=["last", "middle", "first"],
)
def test_a_stage_ends_with_the_best_of_all_its_models(
    accuracies: tuple[float, ...], best: int
) -> None:
    """Each round scores the model that it was given, so the last one is scored by one more."""
    made = strategy()
    state = begun(made)
    for number, accuracy in enumerate(accuracies, start=1):
        state = go_on(made, state, number, accuracy)
    now = StageState.from_arrays(state.kept)
    assert now.phase is Phase.MEASURE
    assert now.best_score == pytest.approx(1.5 * accuracies[best])
    assert state.parameters["a"] == best


def test_the_rounds_of_a_stage_train_then_score_then_measure() -> None:
    made = strategy()
    state = begun(made)
    works = []
    for number in range(1, 8):
        tasks = made.configure(state, number, DEVICES[:2], 0, "train")
        wanted = StageTask.from_config(tasks[0].config)
        works.append((wanted.stage, wanted.work))
        assert bool(made.returned(state, tasks[0])) == (wanted.work == "train")
        state = go_on(made, state, number, 0.5)
    assert works == [
        *[(0, work) for work in ("train", "train", "score", "measure")],
        *[(1, work) for work in ("train", "train", "score")],
    ]
    assert made.is_finished(state)
    assert made.configure(state, 8, DEVICES, 0, "train") == []


def test_the_composed_model_is_evaluated_by_a_share_of_the_devices() -> None:
    made = strategy(fraction_evaluate=0.3)
    tasks = made.configure(begun(made), 1, DEVICES, 0, "evaluate")
    assert len(tasks) == 3
    for task in tasks:
        wanted = StageTask.from_config(task.config)
        assert (wanted.work, wanted.stage) == ("score", 1)
        assert wanted.measure_steps == SETTINGS.measure_steps
    others = made.configure(begun(made), 2, DEVICES, 0, "evaluate")
    assert [task.device_id for task in others] != [task.device_id for task in tasks]
    assert strategy().configure(begun(made), 1, DEVICES, 0, "evaluate") == []


def test_all_devices_may_score_and_no_more_of_them_train() -> None:
    made = strategy(steering="all")
    assert made.request("job", 1, len(DEVICES)).count == len(DEVICES)
    tasks = made.configure(begun(made), 1, DEVICES, 0, "train")
    works = [StageTask.from_config(task.config).work for task in tasks]
    assert len(works) == len(DEVICES)
    assert works.count("train") == 2
    assert works.count("score") == 8


def test_stages_that_are_attacked_at_the_input_have_nothing_to_measure() -> None:
    made = strategy(attack="input", adjust_every=1, input_radius=0.25, later_rounds=1)
    state = begun(made)
    works = []
    for number in range(1, 6):
        tasks = made.configure(state, number, DEVICES[:2], 0, "train")
        wanted = StageTask.from_config(tasks[0].config)
        works.append((wanted.stage, wanted.work))
        assert wanted.radius == 0.25
        assert wanted.begins == 0
        state = go_on(made, state, number, 0.5)
    assert works == [
        *[(0, work) for work in ("train", "train", "score")],
        (1, "train"),
        (1, "score"),
    ]
    assert made.is_finished(state)


def test_a_warm_up_begins_at_the_module_itself() -> None:
    made = strategy(attack="input", warm_up=1)
    state = replace_kept(begun(made), StageState(number=1))
    wanted = StageTask.from_config(made.configure(state, 1, DEVICES, 0, "train")[0].config)
    assert not wanted.is_adversarial
    assert wanted.begins == 1


@pytest.mark.parametrize(("which", "radius"), [("whole", 2.0), ("alpha", 0.6)])
def test_displacement_is_measured_within_a_radius(which: Any, radius: float) -> None:
    made = strategy(measured_radius=which)
    now = StageState(number=1, phase=Phase.MEASURE, base_radius=2.0, alpha=0.3)
    tasks = made.configure(replace_kept(begun(made), now), 1, DEVICES, 0, "train")
    assert StageTask.from_config(tasks[0].config).radius == pytest.approx(radius)


def test_learning_rates_fall_from_round_to_round_and_from_stage_to_stage() -> None:
    made = strategy(learning_rate_decay=0.5, stage_learning_rate_decay=0.25)
    state = replace_kept(begun(made), StageState(number=1, round=1))
    tasks = made.configure(state, 1, DEVICES, 0, "train")
    assert tasks[0].config["learning_rate"] == pytest.approx(0.1 * 0.5 * 0.25)


def replace_kept(state: ServerState, now: StageState) -> ServerState:
    return ServerState(state.parameters, now.to_arrays())


@pytest.mark.parametrize(
    "settings",
    [
        {"steering": "some"},
        {"measured_radius": "half"},
        {"attack": "scores"},
        {"later_rounds": -1},
        {"stage_learning_rate_decay": 0.0},
        {"fraction_evaluate": 1.5},
    ],
    ids=["steering", "radius", "attack", "rounds", "decay", "fraction"],
)
def test_settings_of_stages_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        strategy(**settings)
