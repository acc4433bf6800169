"""Models cut into modules: every parameter is in one of them, and each fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.digits import DigitClients, digit_cascade, digit_footprint, planner
from support.training_cases import compiled

from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import Footprint, LocalTraining, Span
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.spans import Border
from hocket.fl.fat.partition import Cascade, atoms_of, partition, whole_model
from hocket.hwmodels.loader import load_target

PEAK = digit_footprint(Span(is_attacked=True)).peak_bytes


def _footprint(peak_bytes: int) -> Footprint:
    return Footprint(0, 0, 0, 0, peak_bytes, 0, 0.0)


@given(
    atoms=st.lists(st.integers(1, 50), min_size=1, max_size=10),
    head=st.integers(0, 10),
    budget=st.integers(1, 200),
)
def test_modules_cover_a_model_once_within_the_budget(
    atoms: list[int], head: int, budget: int
) -> None:
    """On a chain whose memory is known: the sum over its atoms, and a head but for the last."""
    names = [f"b{number}" for number in range(1, len(atoms))]
    places = {"": 0} | {name: number for number, name in enumerate(names, 1)}

    def owned(span: Span) -> frozenset[str]:
        stop = places[span.stop] if span.stop else len(atoms)
        inner = {f"p{number}" for number in range(places[span.start], stop)}
        return frozenset(inner | {f"exit.{name}" for name in span.exits})

    def footprint(span: Span) -> Footprint:
        stop = places[span.stop] if span.stop else len(atoms)
        return _footprint(sum(atoms[places[span.start] : stop]) + head * len(span.exits))

    borders = [Border(name, (4,), frozenset(), frozenset()) for name in names]
    singles = [atom + (head if place < len(names) else 0) for place, atom in enumerate(atoms)]
    try:
        cascade = partition(borders, owned, footprint, budget)
    except ConfigError as error:
        match = re.search(r"takes ([\d,]+) bytes", str(error))
        assert match is not None
        assert int(match[1].replace(",", "")) in singles
        assert max(singles) > budget
        return
    everything = sorted(name for module in cascade.modules for name in module.owned)
    assert everything == sorted(f"p{number}" for number in range(len(atoms)))
    for module in cascade.modules:
        exits = (module.stop,) if module.stop else ()
        assert footprint(Span(module.start, module.stop, exits)).peak_bytes <= budget
        # Greedy: a module ends only where the next atom would not fit.
        if module.stop:
            longer = [*names, ""][places[module.stop]]
            span = Span(module.start, longer, (longer,) if longer else ())
            assert footprint(span).peak_bytes > budget


def test_digits_are_learned_in_modules_that_fit() -> None:
    cascade = digit_cascade(0.93)
    assert len(cascade) >= 2
    names = frozenset(DigitClients(cascade).spans().parameters())
    owned = [each.owned | each.exit_owned for each in cascade.modules]
    assert frozenset().union(*owned) == names
    assert sum(map(len, owned)) == len(names)
    for module in cascade.modules:
        exits = (module.stop,) if module.stop else ()
        found = digit_footprint(Span(module.start, module.stop, exits, is_attacked=True))
        assert found.peak_bytes <= 0.93 * PEAK


def test_an_atom_that_cannot_fit_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the atom from the input to .*MaxPool.* takes .* bytes"):
        digit_cascade(0.1)


@pytest.mark.parametrize("name", ["resnet", "lenet", "vit"])
def test_atoms_are_cut_in_front_of_products(name: str) -> None:
    spans = CompiledSpans(compiled(name))
    atoms = atoms_of(spans.borders(), spans.parameters())
    wanted = {
        "resnet": ["MaxPool_output_0", "Relu_1_output_0", "Flatten_output_0"],
        "lenet": ["AveragePool_output_0", "Flatten_output_0", "Tanh_2_output_0", "Tanh_3_output_0"],
        "vit": ["Transpose_output_0", "Concat_2_output_0", "Add_output_0"],
    }[name]
    assert [atom.name.split("/")[-1] for atom in atoms][: len(wanted)] == wanted
    machine, training = load_target("mas-edge"), LocalTraining(batch_size=4)
    spans = CompiledSpans(compiled(name), [atom.name for atom in atoms])
    whole = spans.footprint(machine, training, Span(is_attacked=True)).peak_bytes
    cascade = partition(
        atoms, spans.owned, lambda span: spans.footprint(machine, training, span), whole
    )
    assert cascade == whole_model(spans.owned)


def test_a_table_that_is_read_on_both_sides_is_not_cut() -> None:
    parameters = {name: planner().parameters()["head.weight"] for name in ("a", "b", "c")}
    one = Border("one", (4,), frozenset({"a"}), frozenset({"a", "b", "c"}))
    two = Border("two", (4,), frozenset({"a", "b"}), frozenset({"c"}))
    assert atoms_of([one, two], parameters) == [two]


def test_modules_that_share_parameters_or_leave_gaps_are_refused() -> None:
    first, second = digit_cascade(0.93).modules[:2]
    with pytest.raises(ConfigError, match="do not make up a model"):
        Cascade((first,))
    shared = replace(second, owned=second.owned | first.owned, stop="")
    with pytest.raises(ConfigError, match="both own"):
        Cascade((first, shared))


def test_a_prophets_piece_owns_what_its_loss_reaches() -> None:
    cascade = digit_cascade(0.93)
    assert len(cascade) >= 2
    first, second = cascade.modules[:2]
    both = cascade.owned(0, 1, prophet=1.0)
    assert first.owned | second.owned | second.exit_owned == both
    assert cascade.owned(0, 1, prophet=0.5) == both | first.exit_owned
    spans = DigitClients(cascade).spans()
    for prophet in (0.5, 1.0):
        piece = cascade.piece(0, 1, prophet=prophet)
        assert spans.owned(piece.span) == cascade.owned(0, 1, prophet=prophet)
