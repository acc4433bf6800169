"""What became of devices, models and training over rounds, from what is known of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store.access import MODEL, SERVER, UPDATE, WINDOW_ROUNDS, Access
from hocket.fl.store.statistics import cosines
from hocket.fl.store.workloads.workload import (
    Answer,
    Plan,
    Question,
    Workload,
    products_of,
    round_from,
    round_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.store.catalog import Catalog


def prepare_reputation(catalog: Catalog, question: Question) -> Plan:
    """Ask how a device behaved, with ``memory`` (0.8) of what was before.

    Raises:
        ConfigError: No device is named, or it never took part.
    """
    if question.device is None:
        raise ConfigError("reputation is a device's: name one")
    steps = []
    for number in catalog.rounds(question.job, UPDATE, question.device):
        members = round_of(catalog, Question(question.job, number))
        alike = cosines(products_of(catalog, question.job, members), members.weights)
        steps.append((number, float(alike[members.devices.index(question.device)])))
    if not steps:
        raise ConfigError(f"job {question.job!r}: device {question.device!r} never took part")
    memory = question.number("memory", 0.8)
    if memory >= 1:
        raise ConfigError(f"option 'memory': want less than 1, got {memory}")
    return Plan({"device": question.device, "steps": steps, "memory": memory})


def reputation(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return a device's reputation after each of its rounds, -1 to 1.

    It is the mean cosine of its updates with their rounds' means, newer ones counting more.
    """
    del contents
    found: float | None = None
    course = []
    for number, alike in facts["steps"]:
        found = alike if found is None else facts["memory"] * found + (1 - facts["memory"]) * alike
        course.append({"round": number, "cosine": alike, "reputation": found})
    return Answer({"device": facts["device"], "reputation": found, "course": course})


def prepare_convergence(catalog: Catalog, question: Question) -> Plan:
    """Ask how the last ``rounds`` (10) went."""
    rounds = [
        number
        for number in catalog.rounds(question.job, UPDATE)
        if question.round is None or number <= question.round
    ][-question.count("rounds", WINDOW_ROUNDS) :]
    if not rounds:
        raise ConfigError(f"job {question.job!r}: there are no updates")
    found = []
    before: NDArray[np.float64] | None = None
    for number in rounds:
        entries = catalog.entries(question.job, (number, number), kind=UPDATE)
        members = round_from(number, entries)
        share = members.weights / members.weights.sum()
        mean = share @ catalog.sketches(question.job, number, UPDATE, members.devices)
        losses = [entry.metrics.get("loss", float("nan")) for entry in entries]
        found.append(
            {
                "round": number,
                "share": share.tolist(),
                "products": products_of(catalog, question.job, members).tolist(),
                "turn": None if before is None else _cosine(mean, before),
                "loss": float(np.average(losses, weights=share)),
            }
        )
        before = mean
    return Plan({"rounds": found})


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / scale if scale > 0 else None


def convergence(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return how far each round went, how far devices agreed, and which way it went.

    ``step``: the length of the mean change. ``drift``: one less its squared length by the mean
    squared length of the devices' own, 0 if all went the same way, near 1 if they cancel out.
    ``turn``: the cosine with the round before's mean change, by sketches; None for the first.
    ``loss``: the mean, None if devices said nothing of it.
    """
    del contents
    course = []
    for each in facts["rounds"]:
        share, products = np.asarray(each["share"]), np.asarray(each["products"])
        squared = max(float(share @ products @ share), 0.0)
        spread = float(share @ np.diag(products))
        course.append(
            {
                "round": each["round"],
                "step": squared**0.5,
                "drift": 1.0 - squared / spread if spread > 0 else 0.0,
                "turn": each["turn"],
                "loss": each["loss"] if np.isfinite(each["loss"]) else None,
            }
        )
    return Answer({"rounds": course})


def prepare_settings(catalog: Catalog, question: Question) -> Plan:
    """Ask which settings and metrics updates had in the last ``rounds`` (10)."""
    rounds = catalog.rounds(question.job, UPDATE)
    last = question.round if question.round is not None else max(rounds, default=0)
    first = max(0, last - question.count("rounds", WINDOW_ROUNDS) + 1)
    rows = [
        {
            "round": entry.key.round,
            "device": entry.key.device,
            **entry.provenance,
            **entry.metrics,
        }
        for entry in catalog.entries(question.job, (first, last), kind=UPDATE)
        if question.device in (None, entry.key.device)
    ]
    return Plan({"rows": rows})


def settings(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return a row for each update, and of each number its mean for each round."""
    del contents
    means: dict[int, dict[str, list[float]]] = {}
    for row in facts["rows"]:
        found = means.setdefault(row["round"], {})
        for name, value in row.items():
            if isinstance(value, int | float) and name != "round":
                found.setdefault(name, []).append(value)
    return Answer(
        {
            "rows": facts["rows"],
            "means": {
                str(number): {name: float(np.mean(values)) for name, values in found.items()}
                for number, found in means.items()
            },
        }
    )


def prepare_audit(catalog: Catalog, question: Question) -> Plan:
    """Ask what a round's model was made from, or what a device's updates went into."""
    if question.device is not None:
        used = [
            {
                "update": str(entry.key),
                "digest": entry.digest,
                "went_into": [str(key) for key in catalog.children(entry.key)],
            }
            for entry in catalog.entries(question.job, device=question.device, kind=UPDATE)
        ]
        return Plan({"device": question.device, "updates": used})
    number = question.round
    if number is None:
        number = max(catalog.rounds(question.job, MODEL, SERVER), default=0)
    key = Key(question.job, number, SERVER, MODEL)
    try:
        entry = catalog.entry(key)
    except KeyError:
        raise ConfigError(f"{key}: there is no model of that round") from None
    parents = []
    for parent in catalog.parents(key):
        try:
            now = catalog.entry(parent.key).digest
        except KeyError:
            now = None
        parents.append(
            {
                "update": str(parent.key),
                "weight": parent.weight,
                "digest": parent.digest,
                "state": "gone" if now is None else "kept" if now == parent.digest else "replaced",
            }
        )
    known = {"model": str(key), "digest": entry.digest, "provenance": dict(entry.provenance)}
    return Plan(known | {"made_from": parents})


def audit(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return the line of descent: digests, weights, and whether the parents are still there."""
    del contents
    return Answer(dict(facts))


WORKLOADS = (
    Workload(
        "reputation",
        Access.DEVICE,
        "how a device's updates agreed with their rounds, over time",
        prepare_reputation,
        reputation,
    ),
    Workload(
        "convergence",
        Access.WINDOW,
        "how far the last rounds went, and whether devices agreed",
        prepare_convergence,
        convergence,
    ),
    Workload(
        "settings",
        Access.WINDOW,
        "settings and metrics of the last rounds' updates",
        prepare_settings,
        settings,
    ),
    Workload(
        "audit",
        Access.DEVICE,
        "what a model was made from, or what a device's updates went into",
        prepare_audit,
        audit,
    ),
)
