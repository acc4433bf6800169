"""What a plan says, worked out again by hand."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.digits_federation import write_federation

from hocket.federation import Federation, prepare_federation
from hocket.federation_plan import FederationPlan, expected_largest, plan_federation
from hocket.fl.config import load_config
from hocket.fl.core.backend import LocalTraining
from hocket.hwmodels.loader import load_target

CLASSES = """
[[device-classes]]
name = "phone"
target = "mas-edge"
share = 0.5
download-bytes-per-second = 1000
upload-bytes-per-second = 100

[[device-classes]]
name = "board"
target = "ethos-u85-512"
share = 0.5
"""
TRAINING = LocalTraining(epochs=2, batch_size=16, learning_rate=0.2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_federation(tmp_path_factory.mktemp("plan"), more=CLASSES)


@pytest.fixture(scope="module")
def federation(path: Path) -> Federation:
    return prepare_federation(path)


@pytest.fixture(scope="module")
def plan(federation: Federation) -> FederationPlan:
    return plan_federation(federation)


@pytest.fixture(scope="module")
def model_bytes(path: Path) -> int:
    """Return the bytes of the ONNX file's weights."""
    model = onnx.load(path.with_name("cnn.onnx"))
    arrays = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    return sum(array.nbytes for array in arrays if array.dtype.kind == "f")


def seconds_of(count: int, model_bytes: int, step_seconds: float, down: float, up: float) -> float:
    steps = 2 * math.ceil(count / 16)
    return model_bytes / down + steps * step_seconds + model_bytes / up


def test_bytes_are_those_of_the_model(plan: FederationPlan, model_bytes: int) -> None:
    assert plan.download_bytes == plan.upload_bytes == model_bytes
    assert (plan.rounds, plan.devices_per_round) == (3, 3)
    assert plan.total_bytes == 3 * 3 * 2 * model_bytes
    for each in plan.classes:
        assert each.footprint.weight_bytes == each.footprint.gradient_bytes == model_bytes


def test_times_by_class(plan: FederationPlan, federation: Federation, model_bytes: int) -> None:
    assert federation.fleet is not None
    assert [(each.name, each.num_devices) for each in plan.classes] == [("phone", 3), ("board", 3)]
    links = {"phone": (1000.0, 100.0), "board": (12_500_000.0, 2_500_000.0)}
    of_device = {}
    for each in plan.classes:
        names = [
            name
            for name, kind in federation.fleet.classes.items()
            if kind.settings.name == each.name
        ]
        counts = {name: len(federation.clients.partitions.load(name).targets) for name in names}
        machine = load_target(each.machine)
        step = federation.backend.footprint(machine, TRAINING)
        median = statistics.median(counts.values())
        assert each.steps == 2 * math.ceil(median / 16)
        down, up = links[each.name]
        times = {
            name: seconds_of(count, model_bytes, step.step_seconds, down, up)
            for name, count in counts.items()
        }
        assert each.seconds == pytest.approx(statistics.median(times.values()))
        assert each.slowest_seconds == pytest.approx(max(times.values()))
        joules = step.flops / 2 * machine.matrix_unit.pj_per_mac * 1e-12
        joules += machine.leakage_watts * step.step_seconds
        assert each.joules == pytest.approx(each.steps * joules)
        of_device |= times
    # All rounds there can be, each as likely as the others.
    draws = list(itertools.combinations(of_device.values(), 3))
    expected = sum(map(max, draws)) / len(draws)
    assert plan.round_seconds == pytest.approx(expected)
    assert plan.total_seconds == pytest.approx(3 * expected)


def test_a_round_ends_at_its_deadline(path: Path, plan: FederationPlan) -> None:
    fast = plan.classes[1].slowest_seconds
    found = plan_federation(
        prepare_federation(load_config(path, {"federation.timeout-seconds": 2 * fast}))
    )
    # Of 20 draws of three devices, one has none of the three phones.
    assert found.round_seconds == pytest.approx((19 * 2 * fast + fast) / 20)


def test_a_class_without_the_memory_is_left_out(path: Path, federation: Federation) -> None:
    peak = federation.backend.footprint(load_target("mas-edge"), TRAINING).peak_bytes
    classes = [
        each.model_copy(update={"memory_bytes": peak - (each.name == "phone")})
        for each in federation.config.device_classes
    ]
    config = load_config(path).model_copy(update={"device_classes": tuple(classes)})
    found = plan_federation(prepare_federation(config))
    phone, board = found.classes
    assert "try smaller batches" in phone.shortage
    assert (board.shortage, found.fits) == ("", True)
    assert found.round_seconds == pytest.approx(board.slowest_seconds)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=7), st.data())
def test_the_largest_of_a_draw(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    draws = [max(draw) for draw in itertools.combinations(values, count)]
    assert expected_largest(values, count) == pytest.approx(sum(draws) / len(draws))


def test_nobody_takes_no_time() -> None:
    assert expected_largest([1.0, 2.0], 0) == 0.0
