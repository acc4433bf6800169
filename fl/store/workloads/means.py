"""Models made of updates: of one's like, without outliers, and without a device."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE, Access
from hocket.fl.store.workloads import similarity
from hocket.fl.store.workloads.workload import (
    Answer,
    MakingWorkload,
    Plan,
    Question,
    fresh_memory,
    round_of,
)
from hocket.runtime.cpu import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.store.catalog import Catalog
    from hocket.fl.store.workloads.workload import Memory

    Contents = Sequence[tuple[Key, memoryview]]
    Rule = Callable[[Sequence[NDArray[Any]], NDArray[Any]], None]

# So many numbers of ten updates are in the second cache together.
_BLOCK = 1 << 14
# And so many in the first, where they are sorted.
_PIECE = 1 << 10
# Sums are of longer pieces of so many updates at once: memory is read the faster the more of it is
# asked for side by side, and in longer stretches.
_STRETCH = 1 << 15
_SIDE_BY_SIDE = 5
# What a thread works on at least, as starting one takes longer than less of it.
_LEAST_A_THREAD = 1 << 18
# More parts than threads: one whose core has other work to do, too, takes fewer.
_PARTS_A_THREAD = 4


def prepare_personal(catalog: Catalog, question: Question) -> Plan:
    """Ask for a model for a device: the mean of those of ``clusters`` (3) that it is among.

    Raises:
        ConfigError: No device is named, or it did not take part in the round.
    """
    if question.device is None:
        raise ConfigError("a personal model is a device's: name one")
    found = similarity.prepare_clustering(catalog, question)
    groups = similarity.cluster(found.facts, ()).values["clusters"]
    like = [group for group in groups if question.device in group]
    if not like:
        raise ConfigError(
            f"job {question.job!r}: device {question.device!r} did not take part in round "
            f"{found.facts['round']}"
        )
    members = round_of(catalog, question)
    weights = [float(members.weights[members.devices.index(device)]) for device in like[0]]
    return Plan(
        {"round": members.number, "devices": like[0], "weights": weights},
        tuple(Key(question.job, members.number, device, UPDATE) for device in like[0]),
    )


def personal(facts: Mapping[str, Any], contents: Contents, memory: Memory = fresh_memory) -> Answer:
    """Return the weighted mean of the updates of a device's cluster."""
    share = np.asarray(facts["weights"]) / np.sum(facts["weights"])
    values = {"round": facts["round"], "devices": facts["devices"]}
    return _combine(values, contents, _weighted_sum(share), memory)


def prepare_robust(catalog: Catalog, question: Question) -> Plan:
    """Ask for a round's ``median``, or, by ``rule``, its mean ``trimmed`` by ``share`` (0.1)."""
    members = round_of(catalog, question)
    share = question.number("share", 0.1)
    if share >= 0.5:
        raise ConfigError(f"option 'share': want less than 0.5, got {share}")
    facts = {
        "round": members.number,
        "devices": list(members.devices),
        "rule": question.choice("rule", ("median", "trimmed")),
        "trimmed": int(share * len(members.devices)),
    }
    return Plan(facts, members.keys(question.job))


def robust(facts: Mapping[str, Any], contents: Contents, memory: Memory = fresh_memory) -> Answer:
    """Return the median of each number, or its mean without the least and largest ones.

    Yin et al. 2018, definitions 1 and 2.
    """
    count = len(contents)
    cut = (count - 1) // 2 if facts["rule"] == "median" else facts["trimmed"]
    values = {name: facts[name] for name in ("round", "devices", "rule", "trimmed")}
    return _combine(values, contents, _mean_of_middle(count, cut), memory)


def prepare_unlearning(catalog: Catalog, question: Question) -> Plan:
    """Ask for the newest model as it would be had a device's updates never been averaged in.

    Raises:
        ConfigError: No device is named, it never took part, was alone in a round, or there is no
            model.
    """
    if question.device is None:
        raise ConfigError("unlearning forgets a device: name one")
    rounds = catalog.rounds(question.job, UPDATE, question.device)
    models = catalog.rounds(question.job, MODEL, SERVER)
    if not rounds or not models:
        lacking = "took no part" if not rounds else "has no model to be forgotten by"
        raise ConfigError(f"job {question.job!r}: device {question.device!r} {lacking}")
    last = Key(question.job, models[-1], SERVER, MODEL)
    steps, keys = [], [last]
    for number in rounds:
        members = round_of(catalog, Question(question.job, number))
        if len(members.devices) == 1:
            raise ConfigError(
                f"job {question.job!r}: device {question.device!r} was alone in round {number}; "
                "there is nothing to be averaged in its place"
            )
        weights = members.weights / members.weights.sum()
        left = np.where(np.array(members.devices) == question.device, 0.0, weights)
        steps.append((left / left.sum() - weights).tolist())
        keys += members.keys(question.job)
    return Plan({"device": question.device, "rounds": rounds, "steps": steps}, tuple(keys))


def unlearn(facts: Mapping[str, Any], contents: Contents, memory: Memory = fresh_memory) -> Answer:
    """Return the model after the rounds were averaged anew without the device.

    What other devices sent later is taken as it was, though they had started from a model that knew
    the forgotten one: to first order in the size of a round's change (the replay of FedEraser, Liu
    et al. 2021, without its calibration). Where averages are plain (FedAvg) this is exact but for
    that.
    """
    changes = np.array([1.0, *(weight for step in facts["steps"] for weight in step)])
    values = {"device": facts["device"], "rounds": facts["rounds"]}
    return _combine(values, contents, _weighted_sum(changes), memory)


def _weighted_sum(weights: NDArray[np.float64]) -> Rule:
    groups = range(0, len(weights), _SIDE_BY_SIDE)
    padded = np.zeros((len(groups), _SIDE_BY_SIDE))
    padded.reshape(-1)[: len(weights)] = weights

    def add_up(rows: Sequence[NDArray[Any]], found: NDArray[Any]) -> None:
        totals = np.empty(min(_STRETCH, found.size))
        nothing = np.zeros(totals.size, found.dtype)
        for start in range(0, found.size, _STRETCH):
            part = totals[: found.size - start]
            part[:] = 0.0
            end = start + part.size
            for group, shares in zip(groups, padded, strict=True):
                some = [
                    _read_only(row[start:end].astype(found.dtype, copy=False))
                    for row in rows[group : group + _SIDE_BY_SIDE]
                ]
                some += [_read_only(nothing[: part.size])] * (_SIDE_BY_SIDE - len(some))
                _add_five(part, shares, *some)
            found[start:end] = part

    return add_up


def _read_only(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers by a view that cannot be written, the one kind that kernels are made for."""
    found = numbers[:]
    found.flags.writeable = False
    return found


@numba.njit(cache=True, nogil=True)
def _add_five(totals: Any, shares: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
    one, two, three, four, five = shares[0], shares[1], shares[2], shares[3], shares[4]
    for place in range(totals.size):
        totals[place] += (
            one * a[place] + two * b[place] + three * c[place] + four * d[place] + five * e[place]
        )


def sorting_network(count: int) -> NDArray[np.int64]:
    """Return which two of ``count`` values to put in order, one pair after the other, ``[n, 2]``.

    By odd-even merging (Batcher 1968), which looks at no value to decide what comes next: so many
    rows are sorted at once.
    """
    pairs: list[tuple[int, int]] = []
    span = 1
    while span < count:
        step = span
        while step >= 1:
            pairs += [
                (low, low + step)
                for start in range(step % span, count - step, 2 * step)
                for low in range(start, min(start + step, count - step))
                if low // (2 * span) == (low + step) // (2 * span)
            ]
            step //= 2
        span *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@functools.cache
def middle_network(count: int, cut: int) -> NDArray[np.int64]:
    """Return what a sorting network does for values that are neither least nor largest.

    Args:
        count: Of the values.
        cut: So many of the least and of the largest come in any order, each on their side.
    """
    wanted = set(range(cut, count - cut))
    kept = []
    for low, high in reversed(sorting_network(count).tolist()):
        if low in wanted or high in wanted:
            kept.append((low, high))
            wanted |= {low, high}
    return np.array(kept[::-1], np.int64).reshape(-1, 2)


def _mean_of_middle(count: int, cut: int) -> Rule:
    steps = middle_network(count, cut)

    def average(rows: Sequence[NDArray[Any]], found: NDArray[Any]) -> None:
        # Sorted in place, and so in a copy, which is in a near cache.
        copied = np.empty((count, min(_BLOCK, found.size)), found.dtype)
        for start in range(0, found.size, _BLOCK):
            part = found[start : start + _BLOCK]
            for copy, row in zip(copied, rows, strict=True):
                copy[: part.size] = row[start : start + _BLOCK]
            _average_middle(copied, steps, cut, part)

    return average


@numba.njit(cache=True, nogil=True)
def _average_middle(rows: Any, steps: Any, cut: Any, found: Any) -> None:
    """Put the mean of each column without its ``cut`` least and largest values into ``found``.

    ``rows`` are ``[entries, numbers]``, and sorted on the way by ``steps``.
    """
    num_rows = len(rows)
    totals = np.empty(_PIECE)
    for start in range(0, found.size, _PIECE):
        end = min(start + _PIECE, found.size)
        for step in range(len(steps)):
            low, high = rows[steps[step, 0], start:end], rows[steps[step, 1], start:end]
            for place in range(end - start):
                one, other = low[place], high[place]
                low[place] = one if one < other else other
                high[place] = other if one < other else one
        totals[:] = 0.0
        for row in range(cut, num_rows - cut):
            part = rows[row, start:end]
            for place in range(part.size):
                totals[place] += part[place]
        found[start:end] = totals[: end - start] / (num_rows - 2 * cut)


def _combine(values: Mapping[str, Any], contents: Contents, rule: Rule, memory: Memory) -> Answer:
    """Return an answer with arrays each of whose numbers a rule makes of those in the same place.

    Args:
        values: Of the answer.
        contents: Entries alike in names and shapes of arrays.
        rule: Of numbers of each entry, ``[numbers]``, makes one each, in the room given last.
        memory: Where arrays are to be.

    Raises:
        ConfigError: Entries are not alike.
    """
    tables = [layout.read_index(content, len(content), str(key)) for key, content in contents]
    first = tables[0]
    for (key, _), other in zip(contents, tables, strict=True):
        if {name: layer.shape for name, layer in other.items()} != {
            name: layer.shape for name, layer in first.items()
        }:
            raise ConfigError(f"{key}: its arrays are not those of {contents[0][0]}")
    made = layout.blank({name: (layer.dtype, layer.shape) for name, layer in first.items()}, memory)
    wanted = layout.read_index(made, len(made), "what was made")
    # Where they lie alike, arrays of a type are one after the other, and gone through as one.
    is_same = all(table == wanted for table in tables)
    for names in layout.spans(first) if is_same else [[name] for name in first]:
        flat = [
            layout.view_span(content, [table[name] for name in names])
            for (_, content), table in zip(contents, tables, strict=True)
        ]
        _go_through(flat, rule, layout.view_span(made, [wanted[name] for name in names]))
    arrays = {name: layout.view_layer(made, wanted[name]) for name in first}
    return Answer(values, arrays, made)


def _go_through(rows: Sequence[NDArray[Any]], rule: Rule, made: NDArray[Any]) -> None:
    """Write what a rule makes of rows, each a part of it at a time on every core there is."""
    size = made.size
    is_single = all(row.dtype == np.float32 for row in rows)
    # Others are worked on as wide numbers, and written as what they are.
    found = made if is_single else np.empty(size)
    num_threads = max(1, min(usable_cores(), size // _LEAST_A_THREAD))
    if num_threads == 1:
        rule(rows, found)
    else:
        part = -(-size // (num_threads * _PARTS_A_THREAD * _BLOCK)) * _BLOCK
        with ThreadPoolExecutor(num_threads) as threads:
            places = [slice(start, start + part) for start in range(0, size, part)]
            work = [
                threads.submit(rule, [row[place] for row in rows], found[place]) for place in places
            ]
            for each in work:
                each.result()
    if found is not made:
        made[:] = found.round() if made.dtype.kind in "iub" else found


def load_kernels() -> None:
    """Load what passes are compiled to, before there are instances that would all do so."""
    for dtype in (np.float32, np.float64):
        for rule in (_weighted_sum(np.ones(3)), _mean_of_middle(3, 1)):
            rule([np.zeros(1, dtype)] * 3, np.empty(1, dtype))


WORKLOADS = (
    MakingWorkload(
        "personalisation",
        Access.ROUND,
        "a model for a device: the mean of updates like its own",
        prepare_personal,
        personal,
    ),
    MakingWorkload(
        "robust-mean",
        Access.ROUND,
        "a round's model by medians or trimmed means",
        prepare_robust,
        robust,
    ),
    MakingWorkload(
        "unlearning",
        Access.DEVICE,
        "the newest model, replayed without a device",
        prepare_unlearning,
        unlearn,
    ),
)
