"""Programs cut in pieces, at values that all of a model's inputs reach its result through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hocket.fl.backends.program import TrainingProgram
from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from hocket.fl.backends.program import Call
    from hocket.fl.core.backend import Span


@dataclass(frozen=True)
class Cut:
    """A value that is all that later calls know of the model's inputs.

    Attributes:
        name: Of the value.
        before, after: Names of weights that are read on the one side and on the other.
    """

    name: str
    before: frozenset[str]
    after: frozenset[str]


def find_cuts(program: TrainingProgram, weights: Iterable[str], result: str) -> list[Cut]:
    """Return the values that cut a program in two, in the order in which they are computed.

    A value cuts it if every path from an input to the result goes through it. In a list of calls
    such a value is, once computed, the only one that later calls still want, and each value that
    is ever the only one cuts the program: the calls behind it read nothing of those before.

    Args:
        program: All of a model.
        weights: Names of what is given beside inputs.
        result: Name of what it computes.
    """
    names = {value.place: name for name, value in program.values.items()}
    behind = {
        value.place: frozenset({name})
        for name, value in program.values.items()
        if name in set(weights)
    }
    end = program.values[result].place
    calls = _needed(program.calls, {end}, set())
    is_live = {place: True for place in program.given.values() if place not in behind}
    reads = []
    for call in calls:
        read = frozenset().union(*(behind.get(place, frozenset()) for place in call.inputs))
        if any(place in is_live for place in call.inputs):
            is_live |= dict.fromkeys(call.outputs, True)
            reads.append(read)
        else:  # on weights alone: it belongs to whoever reads what it makes
            behind |= dict.fromkeys(call.outputs, read)
            reads.append(frozenset())
    last_use = {place: number for number, call in enumerate(calls) for place in call.inputs}
    last_use[end] = len(calls)
    found = []
    wanted = {place for place in is_live if place in last_use and place in program.given.values()}
    for number, call in enumerate(calls):
        made = {place for place in call.outputs if place in is_live and place in last_use}
        wanted = {place for place in wanted | made if last_use[place] > number}
        if wanted == made and len(made) == 1 and end not in made:
            before = frozenset().union(*reads[: number + 1])
            after = frozenset().union(*reads[number + 1 :])
            found.append(Cut(names[made.pop()], before, after))
    return found


def cut(program: TrainingProgram, start: str, results: Sequence[str]) -> TrainingProgram:
    """Return the part of a program that computes some results from one value.

    Args:
        program: All of a model.
        start: Name of the value, which has to cut the program; empty for the model's inputs.
        results: Names of what is wanted.
    """
    ends = [program.values[name].place for name in results]
    begin = {program.values[start].place} if start else set()
    kept = {place for place, value in enumerate(program.known) if value is not None}
    kept.update(program.given.values(), ends)
    calls = []
    for call in reversed(_needed(program.calls, set(ends), begin)):
        done = [p for p in dict.fromkeys((*call.inputs, *call.outputs)) if p and p not in kept]
        kept.update(done)
        calls.append(replace(call, done=tuple(done)))
    read = {place for call in calls for place in call.inputs}
    given = {name: place for name, place in program.given.items() if place in read}
    if start:
        given[start] = program.values[start].place
    wanted = dict(zip(results, ends, strict=True))
    return TrainingProgram(tuple(reversed(calls)), given, wanted, program.known, program.values)


def _needed(calls: Sequence[Call], ends: set[int], begin: set[int]) -> list[Call]:
    """Return the calls that values follow from, once those at ``begin`` are given."""
    wanted, found = ends - begin, []
    for call in reversed(calls):
        if wanted.intersection(call.outputs):
            found.append(call)
            wanted.update(set(call.inputs) - begin)
    return found[::-1]


def check_span(span: Span, cuts: Sequence[Cut], exits: Collection[str]) -> None:
    """Check that a model has a span.

    Args:
        span: Of it, and not the whole.
        cuts: Where it can be cut, in order.
        exits: Names of the borders that have an early exit.

    Raises:
        ConfigError: A border or an exit is not there, or the span ends before it begins.
    """
    borders = ["", *(each.name for each in cuts)]
    for name in (span.start, span.stop):
        if name not in borders:
            raise ConfigError(f"there is no border {name!r}; there are {borders[1:]}")
    for name in span.exits:
        if name not in exits:
            raise ConfigError(f"there is no exit at {name!r}; there are {list(exits)}")
    places = [borders.index(name) for name in (*span.exits, *([span.stop] * bool(span.stop)))]
    if any(place <= borders.index(span.start) for place in places):
        raise ConfigError(f"{span} is no span: it ends before it begins")
