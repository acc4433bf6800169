"""What tasks come to: steps of spans by hand, on a backend whose steps take round seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hocket.fl.config import DeviceClass
from hocket.fl.core.backend import WHOLE, Footprint, LocalTraining
from hocket.fl.core.types import ClientTask
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.partition import Cascade, CascadeModule
from hocket.fleet.costs import ClassModel, Modules, WholeModel

CASCADE = Cascade(
    (
        CascadeModule(0, "", "middle", frozenset({"a"}), frozenset({"exit"})),
        CascadeModule(1, "middle", "", frozenset({"b"})),
    )
)
TRAINING = LocalTraining(epochs=10, max_steps=6, batch_size=16)
FIRST, LAST = (CASCADE.piece(n, n).span for n in range(2))
SECONDS = {WHOLE: 4.0, FIRST: 3.0, LAST: 1.0}


class ToyBackend:
    """Steps take what ``SECONDS`` says; arithmetic takes 1 pJ an operation, leakage 2 W."""

    artifact = SimpleNamespace(
        target=SimpleNamespace(
            matrix_unit=SimpleNamespace(pj_per_mac=2.0),
            leakage_watts=2.0,
            outer_memory=SimpleNamespace(capacity_bytes=1000),
        ),
        steps=(),
        signature=SimpleNamespace(inputs=()),
    )

    def footprint(self, machine: object, training: LocalTraining, span: object) -> Footprint:
        del machine, training
        return Footprint(1, 1, 1, 1, 10, 10**12, SECONDS[span])  # type: ignore[index]


def task_of(stage: StageTask) -> ClientTask:
    return ClientTask(1, "any", "train", 0, {**TRAINING.to_config(), **stage.to_config()})


def seconds_of(stage: StageTask) -> float:
    work = Modules(CASCADE).work(task_of(stage), (40, 20))
    return work.seconds(toy_model(), TRAINING)


def toy_model(memory_bytes: int = 0) -> ClassModel:
    settings = DeviceClass(
        name="toy",
        memory_bytes=memory_bytes,
        download_bytes_per_second=10.0,
        upload_bytes_per_second=5.0,
    )
    return ClassModel(settings, ToyBackend())  # type: ignore[arg-type]


def test_a_first_module_is_attacked_and_trained() -> None:
    # Six steps, each with three steps of an attack; 20 held out are two batches.
    wanted = StageTask(stage=0, last=0, steps=3, measure_steps=2)
    assert seconds_of(wanted) == pytest.approx(
        6 * 3 * (1 + 3 * 2 / 3) + 2 * 3 * (1 / 3 + 2 * 2 / 3)
    )


def test_a_clean_task_has_no_attack() -> None:
    wanted = StageTask(stage=0, last=0, steps=3, measure_steps=0, is_adversarial=False)
    assert seconds_of(wanted) == pytest.approx(6 * 3)


def test_a_later_module_is_given_what_frozen_ones_make() -> None:
    wanted = StageTask(stage=1, last=1, steps=3, measure_steps=0)
    frozen = 3 * 3 / 3  # three batches of 40 through the first module
    assert seconds_of(wanted) == pytest.approx(frozen + 6 * 1 * (1 + 3 * 2 / 3))


def test_who_measures_does_not_train() -> None:
    wanted = StageTask(work="measure", stage=0, last=0, steps=3, measure_steps=2)
    assert seconds_of(wanted) == pytest.approx(3 * 3 * 3 * 2 / 3)
    scored = StageTask(work="score", stage=1, last=1, steps=3, measure_steps=2)
    assert seconds_of(scored) == pytest.approx(2 * (3 + 1) * (1 / 3 + 2 * 2 / 3))


def test_a_whole_model_takes_its_steps() -> None:
    plain = ClientTask(1, "any", "train", 0, TRAINING.to_config())
    assert WholeModel().work(plain, (40, 0)).spans == {WHOLE: 6.0}
    assert WholeModel(64).work(plain, (40, 0)).seconds(toy_model(), TRAINING) == 256.0


def test_links_and_memory_are_the_class_s() -> None:
    cost = toy_model().cost(7.0, 1.0, 100, 20)
    assert (cost.download_seconds, cost.upload_seconds, cost.seconds) == (10.0, 4.0, 21.0)
    assert toy_model().memory_bytes == 1000
    assert toy_model(64).memory_bytes == 64


def test_joules_are_arithmetic_and_leakage() -> None:
    footprint = Footprint(1, 1, 1, 1, 10, 10**12, 3.0)
    # Half as many multiply-accumulates at 2 pJ, and three seconds at 2 W.
    assert toy_model().joules(footprint) == pytest.approx(1.0 + 6.0)
