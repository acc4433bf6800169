"""What stays in memory: hit rates of FLStore's classes, bounds, and what no policy may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store.access import METRICS, MODEL, SERVER, UPDATE, Access, Request, classify
from hocket.fl.store.policies import SHELVES, ByUse, Policy, Tailored
from hocket.fl.store.simulation import ListedEntries, Outcome, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

Events = list["tuple[Key, int] | Request"]

UPDATE_BYTES, METRICS_BYTES, WINDOW = 44_800_000, 4096, 10
PER_ROUND = 10


def trace(*classes: Access, requests_a_round: int = 1, declared: bool = True) -> Events:
    """Return 200 rounds of 10 of 250 devices, and requests of some classes in each."""
    rng = np.random.default_rng(0)
    events: Events = []
    rounds: dict[str, list[int]] = {}
    metrics: list[Key] = []

    def ask(workload: str, access: Access, keys: list[Key]) -> None:
        if access in classes:
            events.append(Request(workload, tuple(keys), access if declared else None))

    for number in range(1, 201):
        devices = [f"d{each:03d}" for each in rng.choice(250, PER_ROUND, replace=False)]
        for device in devices:
            events.append((Key("job", number, device, UPDATE), UPDATE_BYTES))
            metrics.append(Key("job", number, device, METRICS))
            events.append((metrics[-1], METRICS_BYTES))
            rounds.setdefault(device, []).append(number)
        model = Key("job", number, SERVER, MODEL)
        events.append((model, UPDATE_BYTES))
        ask("serve", Access.MODEL, [model])
        for _ in range(requests_a_round):
            ask("cluster", Access.ROUND, [Key("job", number, each, UPDATE) for each in devices])
        ask("select", Access.WINDOW, metrics[-WINDOW * PER_ROUND :])
    for device in sorted(rounds)[:40]:
        for number in rounds[device]:
            ask("audit", Access.DEVICE, [Key("job", number, device, UPDATE)])
    return events


def run(events: Events, make: Callable[[ListedEntries], Policy]) -> Outcome:
    directory = ListedEntries()
    return simulate(events, directory, make(directory))


def demand(order: str) -> Callable[[ListedEntries], Policy]:
    return lambda entries: ByUse(order, entries, 22 * UPDATE_BYTES, write_through=False)


def through(order: str) -> Callable[[ListedEntries], Policy]:
    return lambda entries: ByUse(order, entries, 22 * UPDATE_BYTES, write_through=True)


def tailored(entries: ListedEntries) -> Policy:
    return Tailored(entries, 22 * UPDATE_BYTES)


# Caches of two rounds; an independent simulation of FLStore's classes found the same.
@pytest.mark.parametrize("order", SHELVES)
def test_reading_single_touch_data_on_demand_never_hits(order: str) -> None:
    for access, workload in ((Access.MODEL, "serve"), (Access.ROUND, "cluster")):
        assert run(trace(access), demand(order)).tallies[workload].hit_rate == 0
    found = run(trace(Access.ROUND, requests_a_round=3), demand(order)).tallies["cluster"]
    assert found.hit_rate == (pytest.approx(2 / 3) if order != "lfu" else pytest.approx(0, abs=0.2))


@pytest.mark.parametrize("order", ["fifo", "lru"])
def test_write_through_is_the_honest_baseline(order: str) -> None:
    for access, workload in ((Access.MODEL, "serve"), (Access.ROUND, "cluster")):
        assert run(trace(access), through(order)).tallies[workload].hit_rate == 1
    assert run(trace(Access.ROUND), through("lfu")).tallies["cluster"].hit_rate < 0.02
    assert run(trace(Access.DEVICE), through(order)).tallies["audit"].hit_rate < 0.05


@pytest.mark.parametrize("declared", [True, False])
def test_tailored_policies_hit_all_but_the_first_of_a_walk(declared: bool) -> None:
    everything = trace(*Access, declared=declared)
    outcome = run(everything, tailored)
    for workload in ("serve", "cluster", "select"):
        assert outcome.tallies[workload].hit_rate == 1, workload
    audit = outcome.tallies["audit"]
    assert audit.num_hits == audit.num_reads - 40, "one miss a device that is walked through"
    # One round of updates, the model, what was loaded ahead, and metrics.
    assert outcome.peak_bytes <= 13 * UPDATE_BYTES


def test_a_tight_cache_keeps_metrics_from_bulk() -> None:
    mixed = trace(Access.MODEL, Access.ROUND, Access.WINDOW, requests_a_round=3)
    tight = run(mixed, lambda entries: Tailored(entries, 11 * UPDATE_BYTES + 2_000_000))
    assert all(tally.hit_rate == 1 for tally in tight.tallies.values())
    for order in ("fifo", "lfu"):
        plain = run(
            mixed,
            lambda entries, order=order: ByUse(
                order, entries, 11 * UPDATE_BYTES + 2_000_000, write_through=True
            ),
        )
        assert plain.tallies["select"].num_served < plain.tallies["select"].num_requests / 10


def test_a_class_nobody_asks_for_holds_nothing_after_a_while() -> None:
    outcome = run(trace(Access.MODEL), tailored)
    assert outcome.tallies["serve"].hit_rate == 1
    assert outcome.unused_bytes < 25 * PER_ROUND * UPDATE_BYTES < 200 * PER_ROUND * UPDATE_BYTES


def test_walking_through_history_finds_the_next_round_loaded() -> None:
    events = [event for event in trace() if not isinstance(event, Request)]
    by_round: dict[int, list[Key]] = {}
    for key, _ in events:
        if key.kind == UPDATE:
            by_round.setdefault(key.round, []).append(key)
    walk = [Request("debug", tuple(by_round[number]), Access.ROUND) for number in range(50, 80)]
    found = run([*events, *walk], tailored).tallies["debug"]
    assert found.num_hits == found.num_reads - PER_ROUND


JOBS, DEVICES = ("a", "b"), ("x", "y", "z", SERVER)
KEYS = st.builds(
    Key,
    st.sampled_from(JOBS),
    st.integers(0, 5),
    st.sampled_from(DEVICES),
    st.sampled_from([UPDATE, MODEL, METRICS]),
)


@given(
    st.lists(st.tuples(KEYS, st.integers(0, 9), st.booleans(), st.sampled_from([*Access, None]))),
    st.integers(0, 30),
    st.sampled_from(["tailored", *SHELVES]),
    st.booleans(),
)
def test_no_policy_takes_more_than_its_capacity_or_forgets_what_it_holds(
    steps: list[tuple[Key, int, bool, Access | None]], capacity: int, name: str, through_: bool
) -> None:
    entries = ListedEntries()
    policy: Policy = (
        Tailored(entries, capacity)
        if name == "tailored"
        else ByUse(name, entries, capacity, write_through=through_)
    )
    known: dict[Key, int] = {}
    held: set[Key] = set()
    for key, size, is_request, access in steps:
        if is_request and known:
            job = key.job
            keys = tuple(each for each in known if each.job == job)[: 1 + size % 3]
            if not keys:
                continue
            change = policy.requested(Request("work", keys, access))
        elif key not in known:
            known[key] = size
            entries.add(key, size)
            change = policy.ingested(key)
        else:
            continue
        assert held.issuperset(change.drop)
        assert held.isdisjoint(change.load)
        assert set(change.load) <= known.keys()
        held = (held - set(change.drop)) | set(change.load)
        assert sum(known[each] for each in held) <= capacity
        assert {each for each in known if policy.holds(each)} == held


def test_requests_are_told_by_what_they_read() -> None:
    def found(*keys: tuple[int, str, str]) -> Access:
        return classify(Request("?", tuple(Key("job", *key) for key in keys)), newest_round=9)

    assert found((9, SERVER, MODEL)) is Access.MODEL
    assert found((9, "x", UPDATE)) is Access.MODEL
    assert found((9, "x", UPDATE), (9, "y", UPDATE)) is Access.ROUND
    assert found((3, "x", UPDATE)) is Access.DEVICE
    assert found((3, "x", UPDATE), (5, "x", UPDATE)) is Access.DEVICE
    assert found((8, "x", METRICS), (9, "y", METRICS)) is Access.WINDOW


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are fifo, lru, lfu"):
        ByUse("mru", ListedEntries(), 1, write_through=True)
