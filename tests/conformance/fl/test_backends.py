"""What must hold for every backend. A new one joins by an entry in ``support.backend_cases``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.backend_cases import BACKEND_CASES, BackendCase, leaves_of

from hocket.fl.core.backend import EVALUATE, FOOTPRINT, INPUT_GRADIENT, TRAIN, LocalTraining
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import CapabilityError, UpdateError
from hocket.hwmodels.loader import load_target

COUNT = 8


@pytest.fixture(params=BACKEND_CASES.values(), ids=BACKEND_CASES.keys(), scope="module")
def case(request: pytest.FixtureRequest) -> BackendCase:
    return request.param


def _assert_same_bits(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def _assert_close(case: BackendCase, found: Any, wanted: Any) -> None:
    for name, tensor in wanted.items():
        np.testing.assert_allclose(
            found[name], tensor.detach().numpy(), **case.tolerance, err_msg=name
        )


def _step(case: BackendCase, leaves: Any, examples: Examples, **settings: float) -> float:
    """Take a step of SGD in plain torch, drawn to where ``origin`` is."""
    for leaf in leaves.values():
        leaf.grad = None
    loss = case.loss(leaves, examples, True)
    loss.backward()
    with torch.no_grad():
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                drawn = settings["mu"] * (leaf - settings["origin"][name])
                leaf.sub_(settings["rate"] * (leaf.grad + drawn))
    return loss.item()


def test_it_can_train_and_evaluate(case: BackendCase) -> None:
    assert {TRAIN, EVALUATE} <= case.new().capabilities


def test_parameters_are_copies(case: BackendCase) -> None:
    backend = case.new()
    before = backend.parameters()
    for array in backend.parameters().values():
        array[...] = 1
    _assert_same_bits(backend.parameters(), before)


def test_loaded_parameters_are_taken_on_and_not_kept(case: BackendCase) -> None:
    backend = case.new()
    given = {name: array + array.dtype.type(0.5) for name, array in backend.parameters().items()}
    kept = {name: array.copy() for name, array in given.items()}
    backend.load_parameters(given)
    for array in given.values():
        array[...] = 0
    _assert_same_bits(backend.parameters(), kept)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype", "infinite"])
def test_parameters_that_do_not_fit_change_nothing(case: BackendCase, fault: str) -> None:
    backend = case.new()
    before = backend.parameters()
    given = {name: array + array.dtype.type(1) for name, array in before.items()}
    last = list(given)[-1]
    if fault == "missing":
        del given[last]
    elif fault == "unknown":
        given["unknown"] = given[last]
    elif fault == "shape":
        given[last] = given[last][None]
    elif fault == "dtype":
        given[last] = given[last].astype(np.float16)
    else:
        given[last].flat[0] = np.nan
    with pytest.raises(UpdateError):
        backend.load_parameters(given)
    _assert_same_bits(backend.parameters(), before)


def test_evaluation_finds_the_loss_of_plain_torch(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(COUNT, 1)
    before = backend.parameters()
    with torch.no_grad():
        wanted = case.loss(leaves_of(before), examples, False).item()
    for batch_size in (256, 3):
        found = backend.evaluate(examples, batch_size)
        assert found.num_examples == COUNT
        np.testing.assert_allclose(found.metrics["loss"], wanted, **case.tolerance)
    assert ("accuracy" in found.metrics) == case.is_classifier
    _assert_same_bits(backend.parameters(), before)


def test_evaluation_follows_training_and_loading(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(COUNT, 1)
    start = backend.parameters()
    first = backend.evaluate(examples).metrics["loss"]
    backend.train(LocalTraining(learning_rate=0.1, batch_size=COUNT), examples, 0)
    with torch.no_grad():
        wanted = case.loss(leaves_of(backend.parameters()), examples, False).item()
    trained = backend.evaluate(examples).metrics["loss"]
    np.testing.assert_allclose(trained, wanted, **case.tolerance)
    assert trained != first
    backend.load_parameters(start)
    assert backend.evaluate(examples).metrics["loss"] == first


def test_a_step_is_that_of_plain_torch(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(COUNT, 2)
    leaves = leaves_of(backend.parameters())
    loss = _step(case, leaves, examples, rate=0.5, mu=0.0, origin=leaves)
    found = backend.train(LocalTraining(learning_rate=0.5, batch_size=COUNT), examples, 0)
    _assert_close(case, backend.parameters(), leaves)
    assert (found.num_examples, found.num_steps) == (COUNT, 1)
    np.testing.assert_allclose(found.metrics["loss"], loss, **case.tolerance)


def test_steps_are_drawn_to_where_they_started(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(COUNT, 2)
    leaves = leaves_of(backend.parameters())
    origin = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    for _ in range(2):
        _step(case, leaves, examples, rate=0.1, mu=3.0, origin=origin)
    training = LocalTraining(epochs=2, learning_rate=0.1, batch_size=COUNT, proximal_mu=3.0)
    backend.train(training, examples, 0)
    _assert_close(case, backend.parameters(), leaves)


def test_the_same_seed_gives_the_same_bits(case: BackendCase) -> None:
    training = LocalTraining(epochs=2, batch_size=3, learning_rate=0.1)
    # Seven examples in threes: batch normalisation is not asked for the spread of a single one.
    examples = case.examples(COUNT, 3)
    found = []
    for seed in (5, 5, 6):
        backend = case.new()
        result = backend.train(training, examples, seed)
        found.append((backend.parameters(), result.metrics))
    _assert_same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert any((found[0][0][name] != found[2][0][name]).any() for name in found[0][0])


def test_training_again_from_the_same_parameters_gives_the_same_bits(case: BackendCase) -> None:
    training = LocalTraining(batch_size=4, learning_rate=0.1)
    backend, examples = case.new(), case.examples(COUNT, 3)
    start = backend.parameters()
    backend.train(training, examples, 5)
    first = backend.parameters()
    backend.evaluate(examples)
    backend.load_parameters(start)
    backend.train(training, examples, 5)
    _assert_same_bits(backend.parameters(), first)


def test_training_lowers_the_loss(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(COUNT, 4)
    before = backend.evaluate(examples).metrics["loss"]
    result = backend.train(
        LocalTraining(epochs=10, batch_size=COUNT, learning_rate=0.1), examples, 0
    )
    assert result.metrics["loss"] < before
    assert result.num_steps == 10


@pytest.mark.parametrize(
    ("settings", "num_steps"),
    [({"epochs": 2}, 4), ({"epochs": 2, "max_steps": 3}, 3), ({"epochs": 3, "max_steps": 1}, 1)],
)
def test_steps_and_examples_are_counted(
    case: BackendCase, settings: dict[str, int], num_steps: int
) -> None:
    result = case.new().train(LocalTraining(batch_size=4, **settings), case.examples(COUNT, 0), 0)
    assert (result.num_examples, result.num_steps) == (COUNT, num_steps)
    assert set(result.metrics) == ({"loss", "accuracy"} if case.is_classifier else {"loss"})


def test_input_gradient_is_that_of_plain_torch(case: BackendCase) -> None:
    backend, examples = case.new(), case.examples(5, 6)
    if not case.input_name:
        with pytest.raises(CapabilityError):
            backend.input_gradient(examples, next(iter(examples.inputs)))
        return
    assert INPUT_GRADIENT in backend.capabilities
    before = backend.parameters()
    wanted = torch.from_numpy(examples.inputs[case.input_name].copy()).requires_grad_()
    inputs: dict[str, Any] = {**examples.inputs, case.input_name: wanted}
    case.loss(leaves_of(before), Examples(inputs, examples.targets), False).backward()
    found = backend.input_gradient(examples, case.input_name)
    assert found.dtype == examples.inputs[case.input_name].dtype
    np.testing.assert_allclose(found, wanted.grad.numpy(), **case.tolerance)
    _assert_same_bits(backend.parameters(), before)


def test_an_unknown_input_has_no_gradient(case: BackendCase) -> None:
    with pytest.raises(CapabilityError):
        case.new().input_gradient(case.examples(2, 0), "nothing")


def test_footprint_is_there_if_it_is_claimed(case: BackendCase) -> None:
    backend = case.new()
    machine, training = load_target("mas-edge"), LocalTraining(batch_size=4, momentum=0.9)
    if FOOTPRINT not in backend.capabilities:
        with pytest.raises(CapabilityError):
            backend.footprint(machine, training)
        return
    found = backend.footprint(machine, training)
    num_bytes = sum(array.nbytes for array in backend.parameters().values())
    assert found.weight_bytes >= num_bytes >= found.gradient_bytes == found.optimizer_bytes > 0
    kept = found.weight_bytes + found.gradient_bytes + found.optimizer_bytes
    assert found.peak_bytes > kept
    assert found.activation_bytes > 0
    assert found.flops > 0
    assert found.step_seconds > 0
