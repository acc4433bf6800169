"""Means of updates, and what servers make of them."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hocket.fl.core.aggregation import mean_metrics, mean_parameters
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.parameters import (
    check_alike,
    decode_arrays,
    digest_of,
    encode_arrays,
)
from hocket.fl.core.server_optimizer import Adaptive, Sgd
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientUpdate, Device
from hocket.fl.strategies.averaging import STRATEGIES, FederatedAveraging, fedadam, fedavgm

FLOATS = st.floats(-1e3, 1e3, width=32)
SHAPES = st.sampled_from([(), (3,), (2, 2)])
MODELS = st.fixed_dictionaries(
    {"w": arrays(np.float32, (2, 3), elements=FLOATS), "b": arrays(np.float64, 2, elements=FLOATS)}
)
COUNTS = st.integers(1, 1000)


def update(number: int, parameters: Any, count: int = 1, **metrics: float) -> ClientUpdate:
    return ClientUpdate(1, f"d{number:03d}", "train", parameters, count, metrics)


UPDATES = st.lists(st.tuples(MODELS, COUNTS), min_size=1, max_size=6).map(
    lambda found: [update(n, model, count, loss=n) for n, (model, count) in enumerate(found)]
)


@given(updates=UPDATES, seed=st.integers(0, 99))
@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_the_order_of_updates_does_not_change_a_bit(
    name: str, updates: list[ClientUpdate], seed: int
) -> None:
    strategy = STRATEGIES[name]()
    shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(len(updates))]
    states = [
        strategy.aggregate(strategy.initialize(updates[0].parameters), each)
        for each in (updates, shuffled)
    ]
    assert digest_of(states[0].parameters) == digest_of(states[1].parameters)
    assert digest_of(states[0].kept) == digest_of(states[1].kept)
    assert mean_metrics(updates) == mean_metrics(shuffled)


@given(updates=UPDATES)
def test_the_mean_is_numpys(updates: list[ClientUpdate]) -> None:
    weights = [each.num_examples for each in updates]
    for name, array in mean_parameters(updates).items():
        stacked = np.stack([each.parameters[name] for each in updates]).astype(np.float64)
        wanted = np.average(stacked, axis=0, weights=weights)
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-4)
        assert array.dtype == updates[0].parameters[name].dtype


@given(model=MODELS, count=COUNTS)
def test_the_mean_of_one_is_that_one(model: Any, count: int) -> None:
    assert digest_of(mean_parameters([update(0, model, count)])) == digest_of(model)


@given(updates=UPDATES)
def test_a_mean_lies_between_what_it_is_of(updates: list[ClientUpdate]) -> None:
    for name, array in mean_parameters(updates).items():
        stacked = np.stack([each.parameters[name] for each in updates])
        slack = 1e-5 * np.abs(stacked).max() + 1e-30
        assert (array >= stacked.min(axis=0) - slack).all()
        assert (array <= stacked.max(axis=0) + slack).all()


def test_counts_are_averaged_and_rounded() -> None:
    found = mean_parameters([update(n, {"n": np.array([n, 7])}) for n in (1, 2, 6)])
    assert found["n"].tolist() == [3, 7]
    assert found["n"].dtype == np.int64


def test_two_updates_of_one_device_are_refused() -> None:
    model = {"w": np.zeros(1)}
    with pytest.raises(UpdateError, match="two updates"):
        mean_parameters([update(1, model), update(2, model), update(1, model)])
    with pytest.raises(UpdateError, match="no updates"):
        mean_parameters([])
    with pytest.raises(UpdateError, match="1 or more examples"):
        update(1, model, 0)


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        (Sgd(0.7), {}),
        (Sgd(0.7, 0.9), {"momentum": 0.9}),
        (Sgd(0.7, 0.9, nesterov=True), {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_descent_is_torchs(ours: Sgd, settings: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    weight = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([weight], lr=ours.learning_rate, **settings)
    position, kept = np.zeros(4), ours.start({"w": np.zeros(4)})
    for _ in range(6):
        change = generator.standard_normal(4)
        steps, kept = ours.step({"w": change}, kept)
        position = position + steps["w"]
        weight.grad = torch.from_numpy(-change)
        theirs.step()
        np.testing.assert_allclose(position, weight.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", ["adagrad", "adam", "yogi"])
def test_adaptive_steps_are_the_papers(rule: Any) -> None:
    """Reddi et al. 2021, algorithm 2, written out a number at a time."""
    optimizer = Adaptive(rule, learning_rate=0.3, beta_1=0.8, beta_2=0.95, tau=0.01)
    kept = optimizer.start({"w": np.zeros(3)})
    momentum, squares = [0.0] * 3, [0.01**2] * 3
    generator = np.random.default_rng(1)
    for _ in range(5):
        change = generator.standard_normal(3) * 0.1
        steps, kept = optimizer.step({"w": change}, kept)
        for i, delta in enumerate(change.tolist()):
            momentum[i] = 0.8 * momentum[i] + 0.2 * delta
            if rule == "adagrad":
                squares[i] += delta**2
            elif rule == "adam":
                squares[i] = 0.95 * squares[i] + 0.05 * delta**2
            else:
                sign = (squares[i] > delta**2) - (squares[i] < delta**2)
                squares[i] -= 0.05 * delta**2 * sign
            wanted = 0.3 * momentum[i] / (squares[i] ** 0.5 + 0.01)
            assert steps["w"][i] == pytest.approx(wanted, rel=1e-12)


def test_statistics_are_averaged_whatever_the_optimizer() -> None:
    strategy = FederatedAveraging(
        server_optimizer=Adaptive("adam"), averaged=frozenset({"variance"})
    )
    start = {"w": np.ones(2, np.float32), "variance": np.full(2, 0.001, np.float32)}
    state = strategy.initialize(start)
    assert set(state.kept) == {"momentum/w", "squares/w"}
    one, two = ({"w": start["w"], "variance": np.full(2, v, np.float32)} for v in (0.5, 0.1))
    after = strategy.aggregate(state, [update(0, one), update(1, two)])
    np.testing.assert_allclose(after.parameters["variance"], 0.3, rtol=1e-6)


def test_momentum_goes_on_over_rounds() -> None:
    strategy = fedavgm(server_momentum=0.5)
    state: ServerState = strategy.initialize({"w": np.zeros(1)})
    seen = []
    for _ in range(3):
        moved = {"w": state.parameters["w"] + 1.0}
        state = strategy.aggregate(state, [update(0, moved)])
        seen.append(float(state.parameters["w"][0]))
    assert seen == [1.0, 2.5, 4.25]


@given(model=MODELS)
def test_arrays_are_the_same_after_a_journey(model: Any) -> None:
    model = {**model, "scalar": np.array(2.5), "empty": np.zeros((0, 3), np.int64)}
    found = decode_arrays(encode_arrays(model), "here")
    assert digest_of(found) == digest_of(model)
    assert encode_arrays(dict(reversed(model.items()))) == encode_arrays(model)


@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_arrays_are_an_update_error(content: bytes) -> None:
    with contextlib.suppress(UpdateError):  # any other error fails
        assert isinstance(decode_arrays(content, "device 'x'"), dict)


def test_a_digest_tells_names_types_shapes_and_numbers_apart() -> None:
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": base["a"]},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": np.array([[0, 0, 0], [0, 0, -0.0]], np.float32)},
        {},
    ]
    assert len({digest_of(each) for each in [base, *others]}) == 6
    assert digest_of({"a": np.asfortranarray(base["a"])}) == digest_of(base)


def test_updates_that_do_not_fit_are_named() -> None:
    wanted = {"w": np.zeros(2)}
    for parameters, match in [
        ({}, r"missing arrays \['w'\]"),
        ({"w": np.zeros(2), "x": np.zeros(1)}, r"unknown arrays \['x'\]"),
        ({"w": np.zeros(2, np.float32)}, "want float64"),
        ({"w": np.array([0, np.inf])}, "not finite"),
    ]:
        with pytest.raises(UpdateError, match=match):
            check_alike(parameters, wanted, "device 'x'")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sgd(0.0),
        lambda: Sgd(1.0, 1.0),
        lambda: Sgd(nesterov=True),
        lambda: Adaptive("adam", tau=0.0),
        lambda: Adaptive("rms"),  # type: ignore[arg-type]
        lambda: fedadam(beta_2=1.0),
        lambda: FederatedAveraging(fraction_train=1.5),
        lambda: FederatedAveraging(min_train_devices=0),
    ],
)
def test_settings_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


@given(count=st.integers(1, 200), fraction=st.floats(0, 1))
def test_shares_are_kept(count: int, fraction: float) -> None:
    strategy = FederatedAveraging(fraction_train=fraction, fraction_evaluate=fraction)
    request = strategy.request("job", 1, count)
    assert 1 <= request.count <= max(1, count)
    assert abs(request.count - max(1.0, fraction * count)) <= 0.5
    devices = [Device(f"d{n}") for n in range(count)]
    state = strategy.initialize({})
    tasks = strategy.configure(state, 1, devices, 0, "evaluate")
    assert abs(len(tasks) - fraction * count) <= 0.5
    assert len({task.device_id for task in tasks}) == len(tasks)


def test_a_schedule_goes_on_from_round_to_round() -> None:
    """Learning rates of all rounds together are those of one training as long."""
    training = LocalTraining(max_steps=3, warmup_steps=4, decay_steps=12, final_share=0.1)
    strategy = FederatedAveraging(training=training)
    state = strategy.initialize({"w": np.zeros(2, np.float32)})
    rates = []
    for number in range(1, 5):
        (task,) = strategy.configure(state, number, [Device("one")], 0, "train")
        told = LocalTraining.from_config(task.config)
        rates += [told.learning_rate_at(step) for step in range(told.max_steps)]
    assert rates == [training.learning_rate_at(step) for step in range(12)]
