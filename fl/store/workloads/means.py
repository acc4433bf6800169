"""Models made of updates: of one's like, without outliers, and without a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE, Access
from hocket.fl.store.workloads import similarity
from hocket.fl.store.workloads.workload import Answer, Plan, Question, Workload, round_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.store.catalog import Catalog

    Contents = Sequence[tuple[Key, memoryview]]
    Rule = Callable[[NDArray[Any], NDArray[Any]], None]

# So many numbers of ten updates are in the second cache together.
_BLOCK = 1 << 14
# And so many in the first, where they are sorted.
_PIECE = 1 << 9


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


def personal(facts: Mapping[str, Any], contents: Contents) -> Answer:
    """Return the weighted mean of the updates of a device's cluster."""
    share = np.asarray(facts["weights"]) / np.sum(facts["weights"])
    values = {"round": facts["round"], "devices": facts["devices"]}
    return Answer(values, _combine(contents, _weighted_sum(share)))


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


def robust(facts: Mapping[str, Any], contents: Contents) -> Answer:
    """Return the median of each number, or its mean without the least and largest ones.

    Yin et al. 2018, definitions 1 and 2.
    """
    count = len(contents)
    cut = (count - 1) // 2 if facts["rule"] == "median" else facts["trimmed"]

    steps = sorting_network(count)

    def middle(rows: NDArray[Any], found: NDArray[Any]) -> None:
        _mean_of_middle(rows, steps, cut, found)

    values = {name: facts[name] for name in ("round", "devices", "rule", "trimmed")}
    return Answer(values, _combine(contents, middle))


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


def unlearn(facts: Mapping[str, Any], contents: Contents) -> Answer:
    """Return the model after the rounds were averaged anew without the device.

    What other devices sent later is taken as it was, though they had started from a model that knew
    the forgotten one: to first order in the size of a round's change (the replay of FedEraser, Liu
    et al. 2021, without its calibration). Where averages are plain (FedAvg) this is exact but for
    that.
    """
    changes = np.array([1.0, *(weight for step in facts["steps"] for weight in step)])
    values = {"device": facts["device"], "rounds": facts["rounds"]}
    return Answer(values, _combine(contents, _weighted_sum(changes)))


def _weighted_sum(weights: NDArray[np.float64]) -> Rule:
    def add_up(rows: NDArray[Any], found: NDArray[Any]) -> None:
        _add_up(rows, weights, found)

    return add_up


@numba.njit(cache=True, nogil=True)
def _add_up(rows: Any, weights: Any, found: Any) -> None:
    """Put the weighted sum of rows, ``[entries, numbers]``, into ``found``."""
    totals = np.empty(_PIECE)
    for start in range(0, found.size, _PIECE):
        end = min(start + _PIECE, found.size)
        totals[:] = 0.0
        for row in range(len(rows)):
            weight, part = weights[row], rows[row, start:end]
            for place in range(part.size):
                totals[place] += weight * part[place]
        found[start:end] = totals[: end - start]


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


@numba.njit(cache=True, nogil=True)
def _mean_of_middle(rows: Any, steps: Any, cut: Any, found: Any) -> None:
    """Put the mean of each column without its ``cut`` least and largest values into ``found``.

    ``rows`` are ``[entries, numbers]``, and sorted on the way.
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


def _combine(contents: Contents, rule: Rule) -> dict[str, NDArray[Any]]:
    """Return arrays each of whose numbers a rule makes of those in the same place.

    Args:
        contents: Entries alike in names and shapes of arrays.
        rule: Of the first columns of ``[entries, numbers]``, which it may change, makes a number
            each, as many as there is room for.

    Raises:
        ConfigError: Entries are not alike.
    """
    views = [layout.view(content, str(key)) for key, content in contents]
    first = views[0]
    for (key, _), other in zip(contents, views, strict=True):
        if {name: array.shape for name, array in other.items()} != {
            name: array.shape for name, array in first.items()
        }:
            raise ConfigError(f"{key}: its arrays are not those of {contents[0][0]}")
    made = {}
    for name, like in first.items():
        flat = [view[name].reshape(-1) for view in views]
        is_single = all(each.dtype == np.float32 for each in flat)
        dtype = np.dtype(np.float32 if is_single else np.float64)
        rows = np.empty((len(flat), min(_BLOCK, like.size)), dtype)
        found = np.empty(like.size, dtype)
        for start in range(0, like.size, _BLOCK):
            part = found[start : start + _BLOCK]
            for row, each in zip(rows, flat, strict=True):
                row[: part.size] = each[start : start + _BLOCK]
            rule(rows, part)
        if like.dtype.kind in "iub":
            found = found.round()
        made[name] = found.astype(like.dtype, copy=False).reshape(like.shape)
    return made


WORKLOADS = (
    Workload(
        "personalisation",
        Access.ROUND,
        "a model for a device: the mean of updates like its own",
        prepare_personal,
        personal,
    ),
    Workload(
        "robust-mean",
        Access.ROUND,
        "a round's model by medians or trimmed means",
        prepare_robust,
        robust,
    ),
    Workload(
        "unlearning",
        Access.DEVICE,
        "the newest model, replayed without a device",
        prepare_unlearning,
        unlearn,
    ),
)
