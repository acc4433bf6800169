"""What training takes, beside what can be counted by hand."""

from __future__ import annotations

import itertools

import pytest
from support.training_cases import compiled, new_backend

from hocket.fl.backends.batching import at_own_size
from hocket.fl.backends.cuts import find_cuts
from hocket.fl.core.backend import LocalTraining, Span
from hocket.fl.core.errors import ConfigError
from hocket.hwmodels.loader import load_target

MACHINE = load_target("mas-edge")


def _bytes(name: str) -> int:
    backend = new_backend(name)
    return sum(
        array.nbytes
        for each, array in backend.parameters().items()
        if each not in backend.statistics
    )


@pytest.mark.parametrize(
    ("settings", "states"),
    [
        ({}, 0),
        ({"momentum": 0.9}, 1),
        ({"optimizer": "adam"}, 2),
        ({"optimizer": "adamw"}, 2),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_gradients_and_states_are_those_of_the_parameters(
    name: str, settings: dict[str, object], states: int
) -> None:
    found = new_backend(name).footprint(MACHINE, LocalTraining(batch_size=4, **settings))
    assert found.gradient_bytes == _bytes(name)
    assert found.optimizer_bytes == states * _bytes(name)


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    backend = new_backend("vit")
    one, two, four = (backend.footprint(MACHINE, LocalTraining(batch_size=n)) for n in (1, 2, 4))
    assert one.weight_bytes == two.weight_bytes == four.weight_bytes
    assert two.activation_bytes > one.activation_bytes
    # Beside what each example has, there are the targets and a few scalars at most.
    grown = four.activation_bytes - two.activation_bytes
    assert grown == pytest.approx(2 * (two.activation_bytes - one.activation_bytes), rel=0.02)
    assert one.step_seconds < two.step_seconds < four.step_seconds
    assert one.flops < two.flops < four.flops


def test_drawing_parameters_to_their_start_keeps_a_copy_of_them() -> None:
    backend = new_backend("vit")
    free = backend.footprint(MACHINE, LocalTraining(batch_size=4))
    drawn = backend.footprint(MACHINE, LocalTraining(batch_size=4, proximal_mu=0.1))
    assert drawn.peak_bytes - free.peak_bytes == _bytes("vit")


def _cuts(name: str) -> list[str]:
    """Return the borders between blocks."""
    program = new_backend(name)._program(at_own_size(compiled(name)), is_training=True)
    weights = new_backend(name).parameters()
    cuts = find_cuts(program, weights, "logits")
    return [each.name for each in cuts if each.name.endswith("Add_1_output_0")]


@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_spans_make_up_the_whole(name: str) -> None:
    backend, training = new_backend(name), LocalTraining(batch_size=4)
    whole = backend.footprint(MACHINE, training)
    borders = ["", *_cuts(name), ""]
    parts = [
        backend.footprint(MACHINE, training, Span(start, stop))
        for start, stop in itertools.pairwise(borders)
    ]
    assert len(parts) >= 3
    # A table that is tied is in the first span and in the last.
    shared = sum(part.weight_bytes for part in parts) - whole.weight_bytes
    tied = backend.parameters().get("tokens.weight")
    assert shared == (0 if tied is None else tied.nbytes)
    # What a span is given has no gradient, so that the parts are a little less than the whole.
    assert 0.85 * whole.flops < sum(part.flops for part in parts) < whole.flops
    assert all(part.peak_bytes < whole.peak_bytes for part in parts)


@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_longer_spans_take_more(name: str) -> None:
    backend, training = new_backend(name), LocalTraining(batch_size=4)
    found = [backend.footprint(MACHINE, training, Span("", stop)) for stop in (*_cuts(name), "")]
    for shorter, longer in itertools.pairwise(found):
        assert shorter.weight_bytes <= longer.weight_bytes
        assert shorter.activation_bytes < longer.activation_bytes
        assert shorter.flops < longer.flops
        assert shorter.step_seconds < longer.step_seconds


def test_flops_of_a_multilayer_model_are_those_of_its_products() -> None:
    backend = new_backend("lenet")
    found = backend.footprint(MACHINE, LocalTraining(batch_size=2))
    products = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    # Forward once; backward by weights and, but for the first layer, by inputs.
    macs = 2 * (3 * products - 28 * 28 * 6 * 25)
    assert found.flops == pytest.approx(2 * macs, rel=0.1)


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        (Span("no such"), "there is no border 'no such'"),
        (Span("", "no such"), "there is no border 'no such'"),
        (Span("", "", ("no such",)), "there is no exit at 'no such'"),
    ],
    ids=["start", "stop", "exit"],
)
def test_a_span_that_is_none_is_refused(span: Span, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        new_backend("vit").footprint(MACHINE, LocalTraining(batch_size=2), span)


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    first, second = _cuts("vit")
    with pytest.raises(ConfigError, match="ends before it begins"):
        new_backend("vit").footprint(MACHINE, LocalTraining(batch_size=2), Span(second, first))
