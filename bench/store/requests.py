"""The same questions asked of our store and of aggregators, and what a month of them costs."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE, WINDOW_ROUNDS, Access
from hocket.fl.store.pricing import Demand, aggregator_bill, load_prices, serverless_bill
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.store.workloads.models import ModelWorkload
from hocket.fl.store.workloads.workload import Question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hocket.fl.store.pricing import Bill
    from hocket.fl.store.round_store import RoundStore
    from store.aggregators import Aggregator

# Numbers of float32 in an update.
MODELS = {"tiny": 50_000, "vit-tiny": 5_717_416, "resnet-18": 11_191_262, "gpt-125m": 124_439_808}
NUM_DEVICES, A_ROUND = 250, 10
HOURS_A_MONTH = 730.0
TRACE_RATE = 60.0
"""Requests an hour: FLStore's trace has 3,000 in 50 hours."""

RATES = (1.0, 10.0, TRACE_RATE, 600.0, 6000.0, 60000.0)
LEAST_FUNCTION_BYTES = 128e6
"""The smallest function there is."""

# Random updates are of no model that could be run.
ASKED = tuple(name for name, work in WORKLOADS.items() if not isinstance(work, ModelWorkload))

FULL_PASSES = ("personalisation", "robust-mean")
"""Of these, those that read all of a round's updates."""

PEERS = ("objects", "cache")
OURS = "ours"


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: Whose size updates have.
        num_rounds: Put in all.
        num_asked: Of the last rounds, of which is asked.
        asked: What is asked.
        num_devices: In each round.
    """

    model: str
    num_rounds: int
    num_asked: int
    asked: tuple[str, ...] = ASKED
    num_devices: int = A_ROUND

    @property
    def num_bytes(self) -> int:
        """Of an update."""
        return 4 * MODELS[self.model]


@dataclass
class Measured:
    """What was measured of a case.

    Attributes:
        puts: Seconds of each put, by whom.
        asked: Seconds of each answer, by workload and whom.
        reads: Entries and bytes that an aggregator read for the last answer, by workload and whom.
    """

    puts: dict[str, list[float]] = field(default_factory=dict)
    asked: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    reads: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)


def draw_devices(case: Case) -> list[list[str]]:
    """Return the devices of each round, from the first."""
    rng = np.random.default_rng(0)
    drawn = [
        rng.choice(NUM_DEVICES, case.num_devices, replace=False) for _ in range(case.num_rounds)
    ]
    return [[f"d{device:03d}" for device in sorted(devices)] for devices in drawn]


def draw_entries(case: Case) -> Iterator[tuple[Key, Any]]:
    """Yield updates and models as they come: those of a round, then its model, their mean."""
    rng = np.random.default_rng(0)
    size = MODELS[case.model]
    model = rng.standard_normal(size, dtype=np.float32)
    yield Key(case.model, 0, SERVER, MODEL), model
    noise = rng.standard_normal(size + 1_000_003, dtype=np.float32) * np.float32(0.01)
    for number, devices in enumerate(draw_devices(case), start=1):
        mean = np.zeros(size, np.float32)
        for device in devices:
            # Another piece of the same noise for each, since drawing takes longer than sending.
            start = int(rng.integers(0, 1_000_000))
            update = model + noise[start : start + size]
            mean += update / np.float32(len(devices))
            yield Key(case.model, number, device, UPDATE), update
        model = mean
        yield Key(case.model, number, SERVER, MODEL), model


def history_of(case: Case, number: int) -> tuple[str, list[int]]:
    """Return the device of which is asked in a round, and the rounds in which it took part."""
    drawn = draw_devices(case)[:number]
    rounds = {
        device: [each for each, devices in enumerate(drawn, start=1) if device in devices]
        for device in drawn[-1]
    }
    # FLStore's devices took part in up to seven of fifty rounds, half of them in two or fewer.
    device = max(rounds, key=lambda each: (len(rounds[each]) <= 3, len(rounds[each]), each))
    return device, rounds[device]


def shared_rounds(case: Case) -> set[int]:
    """Return the rounds whose updates aggregators have, too: all that is asked for."""
    found = set()
    for last in range(case.num_rounds - case.num_asked + 1, case.num_rounds + 1):
        found.add(last)
        accesses = {WORKLOADS[name].access for name in case.asked}
        if Access.WINDOW in accesses:
            found |= set(range(last - WINDOW_ROUNDS + 1, last + 1))
        if Access.DEVICE in accesses:
            found |= set(history_of(case, last)[1])
    return found


def run_rounds(store: RoundStore, case: Case, peers: Mapping[str, Aggregator]) -> Measured:
    """Put rounds everywhere, and ask everything of the last ones as they come."""
    found = Measured()
    is_warm, shared = False, shared_rounds(case)
    shares: dict[Key, float] = {}
    for key, array in draw_entries(case):
        number = key.round
        # Changes are from the model of the round before, which aggregators read, too.
        is_shared = number in shared or (key.kind == MODEL and number + 1 in shared)
        if key.kind == UPDATE:
            shares[key] = 1 / case.num_devices
            _put(store, peers if is_shared else {}, key, array, {}, found.puts)
            continue
        _put(store, peers if is_shared else {}, key, array, shares, found.puts)
        shares = {}
        is_asked = number > case.num_rounds - case.num_asked
        if number and not is_warm and number >= case.num_rounds - case.num_asked:
            # Kernels are loaded, instances started, and classes of work known.
            _ask_all(store, {}, case, number, Measured(), num_times=1)
            is_warm = True
        if is_asked:
            _ask_all(store, peers, case, number, found)
    return found


def _put(
    store: RoundStore,
    peers: Mapping[str, Aggregator],
    key: Key,
    array: Any,
    made_from: Mapping[Key, float],
    seconds: dict[str, list[float]],
) -> None:
    metrics = {"loss": 1 / (1 + key.round), "accuracy": 0.5, "num_examples": 100.0}
    metrics["seconds"] = 1.0 + array[0].item() % 1
    started = time.perf_counter()
    entry = store.ingest(key, {"weights": array}, metrics, made_from=made_from)
    seconds.setdefault(OURS, []).append(time.perf_counter() - started)
    if not peers:
        return
    content = layout.encode({"weights": array})
    for label, peer in peers.items():
        started = time.perf_counter()
        peer.put(entry, content, dict(made_from))
        seconds.setdefault(label, []).append(time.perf_counter() - started)


def _ask_all(
    store: RoundStore,
    peers: Mapping[str, Aggregator],
    case: Case,
    number: int,
    found: Measured,
    num_times: int = 3,
) -> None:
    """Ask each workload of everybody in turns; of ours more often, as that takes little."""
    question = Question(case.model, number, history_of(case, number)[0])
    for name in case.asked:
        for _ in range(num_times):
            started = time.perf_counter()
            store.ask(name, question)
            found.asked.setdefault((name, OURS), []).append(time.perf_counter() - started)
            store.settle()
        for label, peer in peers.items():
            started = time.perf_counter()
            peer.ask(name, question)
            found.asked.setdefault((name, label), []).append(time.perf_counter() - started)
            found.reads[name, label] = (peer.fetched.num_reads, peer.fetched.num_bytes)


def rows_of(store: RoundStore, case: Case, found: Measured) -> list[dict[str, Any]]:
    """Return a row for each workload, one for all of them, and one for each rate of requests."""
    costs = Costs(store, case, found)
    rows = [_row(costs, name) for name in case.asked]
    ours = costs.mean(None, OURS)
    whole: dict[str, Any] = {
        "part": "requests",
        "model": case.model,
        "workload": "all, in the mean",
        "class": "",
        "ours_ms": 1e3 * ours,
        "hits": costs.hit_rate(list(case.asked)),
        "num_asked": case.num_asked,
        "num_rounds": case.num_rounds,
        "num_devices": case.num_devices,
        "puts_ms": {label: 1e3 * statistics.median(each) for label, each in found.puts.items()},
    }
    for label in PEERS:
        theirs = costs.mean(None, label)
        whole[f"{label}_ms"] = None if theirs is None else 1e3 * theirs
        whole[f"{label}_times"] = None if theirs is None else theirs / ours
        whole[f"latency_less_than_{label}"] = None if theirs is None else 1 - ours / theirs
        for kind, is_always_on in (("", True), ("busy_", False)):
            bill = costs.peer_bill(None, label, TRACE_RATE, is_always_on=is_always_on)
            less = None if bill is None else 1 - costs.our_bill(None, TRACE_RATE).total / bill.total
            whole[f"cost_less_than_{kind}{label}"] = less
    return [*rows, whole, *(_rate_row(costs, rate) for rate in RATES)]


def _row(costs: Costs, name: str) -> dict[str, Any]:
    ours = costs.found.asked[name, OURS]
    row: dict[str, Any] = {
        "part": "requests",
        "model": costs.case.model,
        "workload": name,
        "class": str(WORKLOADS[name].access),
        "ours_ms": 1e3 * statistics.median(ours),
        "hits": costs.hit_rate([name]),
        "num_asked": len(ours),
    }
    for label in PEERS:
        theirs = costs.found.asked.get((name, label))
        row[f"{label}_ms"] = None if theirs is None else 1e3 * statistics.median(theirs)
        row[f"{label}_times"] = (
            None if theirs is None else statistics.median(theirs) / statistics.median(ours)
        )
        bill = costs.peer_bill(name, label, TRACE_RATE, is_always_on=True)
        row[f"cost_less_than_{label}"] = (
            None if bill is None else 1 - costs.our_bill(name, TRACE_RATE).total / bill.total
        )
    return row


def _rate_row(costs: Costs, rate: float) -> dict[str, Any]:
    """Return what a month costs at a rate of requests, all workloads alike often."""
    ours = costs.our_bill(None, rate).total
    row: dict[str, Any] = {
        "part": "rates",
        "model": costs.case.model,
        "an_hour": rate,
        "ours": ours,
    }
    for label in PEERS:
        on = costs.peer_bill(None, label, rate, is_always_on=True)
        busy = costs.peer_bill(None, label, rate, is_always_on=False)
        row[label] = None if on is None else on.total
        row[f"busy_{label}"] = None if busy is None else busy.total
        # Of what is saved, what paying an aggregator for its busy seconds alone would save, too.
        is_known = on is not None and busy is not None and on.total > ours
        row[f"pay_per_request_share_{label}"] = (
            (on.total - busy.total) / (on.total - ours) if is_known else None
        )
    return row


@dataclass(frozen=True)
class Costs:
    """What requests take, and what that costs at a rate; of all workloads alike often for None.

    Attributes:
        store: That was asked.
        case: Of which.
        found: What was measured.
    """

    store: RoundStore
    case: Case
    found: Measured

    def mean(self, name: str | None, label: str) -> float | None:
        """Return the mean seconds of a request; None if somebody was not asked."""
        names = list(self.case.asked) if name is None else [name]
        each = [self.found.asked.get((one, label)) for one in names]
        if any(seconds is None for seconds in each):
            return None
        return statistics.fmean(statistics.fmean(seconds) for seconds in each if seconds)

    def hit_rate(self, names: list[str]) -> float:
        """Return the share of entries read that were in memory, the first request left out."""
        handled = [
            each
            for name in names
            for each in [one for one in self.store.handled() if one.workload == name][1:]
        ]
        num_reads = sum(each.num_reads for each in handled)
        return sum(each.num_hits for each in handled) / num_reads if num_reads else 1.0

    def our_bill(self, name: str | None, rate: float) -> Bill:
        """Return what a month costs with ours."""
        seconds = self.mean(name, OURS) or 0.0
        demand = self._demand(rate, seconds, (0, 0), self._worked_bytes(name))
        held = (self.case.num_devices + 1) * self.case.num_bytes
        return serverless_bill(load_prices(), demand, held, self._stored_bytes())

    def peer_bill(
        self, name: str | None, label: str, rate: float, *, is_always_on: bool
    ) -> Bill | None:
        """Return what a month costs with an aggregator; None if it was not asked."""
        seconds = self.mean(name, label)
        if seconds is None:
            return None
        names = list(self.case.asked) if name is None else [name]
        read = [self.found.reads[each, label] for each in names]
        reads = (
            statistics.fmean(each[0] for each in read),
            statistics.fmean(each[1] for each in read),
        )
        return aggregator_bill(
            load_prices(),
            self._demand(rate, seconds, reads if label == "objects" else (0, 0), 0),
            self._stored_bytes(),
            self._stored_bytes() if label == "cache" else 0,
            is_always_on=is_always_on,
        )

    def _stored_bytes(self) -> float:
        entries = self.store.history.catalog.entries(self.case.model)
        return float(sum(entry.num_bytes for entry in entries))

    def _worked_bytes(self, name: str | None) -> float:
        names = list(self.case.asked) if name is None else [name]
        found = [
            max(each.num_reads for each in self.store.handled() if each.workload == one)
            for one in names
        ]
        one = self.case.num_bytes
        return statistics.fmean(max(reads * one, LEAST_FUNCTION_BYTES) for reads in found)

    def _demand(
        self, rate: float, seconds: float, reads: tuple[float, float], worked_bytes: float
    ) -> Demand:
        return Demand(rate * HOURS_A_MONTH, seconds, reads[1], reads[0], worked_bytes)
