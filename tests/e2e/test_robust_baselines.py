"""Federations whose devices train models of several sizes, from their file to what they learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.prophet_federation import FAMILY, write_prophet, write_widths

import hocket
from hocket.federation import prepare_federation
from hocket.federation_launch import launch
from hocket.fl.config import load_config
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import decode_arrays
from hocket.fl.core.spans import Piece
from hocket.fl.core.types import ClientUpdate, Device
from hocket.fl.fat.baselines.distillation import Distillation, Distiller
from hocket.fl.fat.baselines.family import MEMBER
from hocket.fl.fat.baselines.partial import PartialTraining

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.federation import Federation

METHODS = ("heterofl", "fedrolex", "feddrop", "feddf")
LEARNING: dict[str, Any] = {
    "strategy.steps": 1,
    "strategy.measure-steps": 1,
    "strategy.input-radius": 0.02,
    "strategy.fraction-train": 1.0,
    "training.max-steps": 15,
    "federation.rounds": 3,
    "federation.evaluate-every": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("family")
    write_widths(made)
    return made


def prepare(folder: Path, method: str, **overrides: Any) -> Federation:
    path = write_prophet(folder, method, section=FAMILY)
    overrides = {"federation.folder": method, **overrides}
    return prepare_federation(load_config(path, overrides))


@pytest.mark.parametrize("method", METHODS)
def test_devices_train_the_largest_model_that_they_have_the_memory_for(
    method: str, folder: Path
) -> None:
    strategy: Any = prepare(folder, method).strategy
    whole, half, quarter = (cost.memory_bytes for cost in strategy.costs)
    assert whole > 460_000 > half > quarter  # devices have 460 kB
    tasks = strategy.configure(None, 1, [Device("a")], 0, "train")
    assert [task.config[MEMBER] for task in tasks] == [1]


@pytest.mark.parametrize("method", METHODS)
def test_narrow_models_teach_the_whole_one(method: str, folder: Path) -> None:
    path = write_prophet(folder, method, section=FAMILY)
    overrides = {**LEARNING, "federation.folder": f"learning-{method}"}
    if method == "feddf":
        overrides |= {"strategy.distillation-steps": 20}
    result = hocket.federate(load_config(path, overrides))
    assert not any(report.failures for report in result.reports)
    # Ten classes, so that 0.1 is nothing learned.
    assert result.reports[-1].evaluate_metrics["server_accuracy"] > 0.5


def test_units_that_no_device_has_stay_as_they_are(folder: Path) -> None:
    federation = prepare(folder, "heterofl", **{"federation.rounds": 1})
    start = federation.backend.parameters()
    launch(federation)
    keep = np.testing.assert_array_equal
    after = federation.backend.parameters()
    keep(after["convolutions.0.weight"][12:], start["convolutions.0.weight"][12:])
    keep(after["convolutions.1.weight"][:, 12:], start["convolutions.1.weight"][:, 12:])
    keep(after["head.weight"][:, 64:], start["head.weight"][:, 64:])
    assert (after["head.weight"][:, :64] != start["head.weight"][:, :64]).any(axis=0).all()
    means = "norms.0.running_mean"
    assert (after[means][:12] != start[means][:12]).all()
    keep(after[means][12:], start[means][12:])


def test_public_devices_take_part_in_no_round(folder: Path) -> None:
    federation = prepare(folder, "feddf")
    assert federation.clients.device_ids() == [f"device-{number:04d}" for number in range(5)]
    strategy = federation.strategy
    assert isinstance(strategy, Distillation)
    assert isinstance(strategy.distil, Distiller)
    partitions: Any = federation.clients.partitions
    last = partitions.partitions.load("device-0005").inputs["pixels"]
    np.testing.assert_array_equal(strategy.distil.inputs, last)


def test_models_of_each_size_are_averaged_with_their_like(folder: Path) -> None:
    made: Any = prepare(folder, "feddf").strategy
    strategy = Distillation(made.costs, smaller=made.smaller)
    whole = {"weight": np.zeros(2, np.float32)}
    state = strategy.initialize(whole)
    names = [name for name in state.parameters if name.startswith("size1/")]
    updates = [
        ClientUpdate(
            1,
            device,
            "train",
            {name: np.full_like(state.parameters[name], value) for name in names},
            count,
            {},
        )
        for device, value, count in (("a", 1.0, 1), ("b", 5.0, 3))
    ]
    found = strategy.aggregate(state, updates).parameters
    assert all((found[name] == 4.0).all() for name in names)
    others = [name for name in found if name not in names]
    for name in others:
        np.testing.assert_array_equal(found[name], state.parameters[name])


def test_distillation_brings_models_to_what_the_teachers_say(folder: Path) -> None:
    federation = prepare(folder, "feddf")
    strategy: Any = federation.strategy
    distiller = strategy.distil
    models = [federation.backend.parameters(), *strategy.smaller]
    # A teacher that is sure of one class.
    sure = dict(models[1])
    sure["head.bias"] = np.where(np.arange(10) == 3, 20, 0).astype(np.float32)
    learned = distiller(models, [(1, sure)], seed=1)
    for spans, parameters in zip(distiller.models, learned, strict=True):
        spans.load_parameters(parameters)
        scores = spans.features("", "", distiller.inputs[:32])
        assert (scores.argmax(axis=1) == 3).all()


def test_soft_targets_are_the_cross_entropy_of_both(folder: Path) -> None:
    spans: Any = prepare(folder, "feddf").backend
    generator = np.random.default_rng(0)
    inputs = generator.uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    wanted = generator.dirichlet(np.ones(10), 8).astype(np.float32)
    wanted[1:] = wanted[0]

    def loss_to(targets: Any) -> float:
        training = LocalTraining(learning_rate=1e-9)
        loss: float = spans.train_piece(Piece(), training, 0).step(inputs, targets)
        return loss

    by_class = [loss_to(np.full(8, number)) for number in range(10)]
    assert loss_to(wanted) == pytest.approx(float(wanted[0] @ by_class), rel=1e-4)


def test_what_smaller_models_remain_beside_the_trained_one(folder: Path) -> None:
    path = write_prophet(folder, "feddf", section=FAMILY)
    overrides = {"federation.rounds": 1, "strategy.distillation-steps": 1,
                 "federation.folder": "beside"}  # fmt: skip
    result = hocket.federate(load_config(path, overrides))
    beside = decode_arrays((result.folder / "beside.safetensors").read_bytes(), "beside")
    assert {name.partition("/")[0] for name in beside} == {"size1", "size2"}
    module = hocket.InferenceSession(result.model)
    (scores,) = module.run(None, {"pixels": np.zeros((2, 1, 8, 8), np.float32)})
    assert scores.shape == (2, 10)


@pytest.mark.parametrize(
    ("method", "section", "message"),
    [
        ("heterofl", "", "heterofl wants smaller models"),
        ("feddf", 'smaller = ["narrow-0.onnx"]', "public-devices: feddf wants 1 or more"),
        ("fedrolex", 'smaller = ["narrow-0.onnx"]', "is float32.* and in the whole model"),
        ("magic", "", "no method 'magic'"),
    ],
)
def test_what_does_not_make_a_family_is_refused(
    method: str, section: str, message: str, folder: Path
) -> None:
    path = write_prophet(folder, method, section=section)
    with pytest.raises(ConfigError, match=message):
        prepare_federation(load_config(path))


def test_partial_training_wants_counts_of_all_models(folder: Path) -> None:
    made: Any = prepare(folder, "fedrolex").strategy
    with pytest.raises(ConfigError, match="want counts of 3 models, got 2"):
        PartialTraining(made.costs, widths=made.widths, counts=made.counts[:2])
