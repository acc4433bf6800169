"""How long do questions about updates take, and what do they cost, beside aggregators as they are?

A job's updates go to our store, to an object store (rclone, by S3's protocol) and to a cache server
(Redis, by `make redis`), all on this machine; then each workload is asked of the newest rounds in
turns: of our store, and of aggregators that fetch from the other two and have our kernels. There is
no network between them, which favours the aggregators.

Columns: median latency; how many times longer the aggregators took in the mean; hits of tailored
policies; by how much less a month costs, at 3,000 requests in 50 hours (FLStore's rate), than with
an aggregator that is always on. The JSON has the same beside its busy seconds alone, too, as
FLStore's drivers reckon.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import PACKAGES, choices_of, make_parser, report, stamp
from obstore.store import S3Store
from store.aggregators import Aggregator, Cache, ObjectStore
from store.servers import BUCKET, cache_server, find_redis, object_server

from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.pricing import Demand, aggregator_bill, load_prices, serverless_bill
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.store.workloads.workload import Question
from hocket.store_parts import open_round_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.fl.store.round_store import RoundStore

# Numbers of float32 in an update.
MODELS = {"tiny": 50_000, "resnet-18": 11_191_262, "vit-tiny": 5_717_416, "gpt-125m": 124_439_808}
NUM_DEVICES, A_ROUND = 50, 10
ACCESSIBLE_HOURS = 50.0
REQUESTS = 3000
"""A month of FLStore's trace: 3,000 requests in 50 hours, again and again."""

COLUMNS = {
    "model": "",
    "workload": "",
    "class": "",
    "ours_ms": ".2f",
    "objects_ms": ".1f",
    "cache_ms": ".1f",
    "objects_times": ",.0f",
    "cache_times": ",.0f",
    "hits": ".0%",
    "cost_less_than_objects": ".1%",
    "cost_less_than_cache": ".1%",
}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: Whose size updates have.
        num_rounds: Put in all.
        num_asked: Of the last rounds of which is asked.
    """

    model: str
    num_rounds: int
    num_asked: int


def draw_rounds(case: Case) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """Yield each round's number, updates by device, and model."""
    rng = np.random.default_rng(0)
    size = MODELS[case.model]
    model = rng.standard_normal(size, dtype=np.float32)
    yield 0, {}, model
    noise = rng.standard_normal(size + 1_000_003, dtype=np.float32) * np.float32(0.01)
    for number in range(1, case.num_rounds + 1):
        devices = sorted(rng.choice(NUM_DEVICES, A_ROUND, replace=False))
        updates = {}
        for device in devices:
            # Another piece of the same noise for each, since drawing takes longer than sending.
            start = int(rng.integers(0, 1_000_000))
            updates[f"d{device:02d}"] = model + noise[start : start + size]
        model = np.mean(list(updates.values()), axis=0, dtype=np.float32)
        yield number, updates, model


Seconds = dict[str, dict[str, list[float]]]
"""By workload and by whom was asked."""


@dataclass
class Measured:
    """What was measured of a case.

    Attributes:
        puts: Seconds of each put, by whom.
        asked: Seconds of each answer.
        reads: Entries and bytes that an aggregator read for the last answer, by workload and whom.
    """

    puts: dict[str, list[float]]
    asked: Seconds
    reads: dict[tuple[str, str], tuple[int, int]]


def run_rounds(store: RoundStore, case: Case, peers: dict[str, Aggregator]) -> Measured:
    """Put rounds everywhere, and ask everything of the last ones as they come."""
    found = Measured({}, {}, {})
    # Kernels are compiled and instances started before anything is measured.
    is_warm = False
    for number, updates, model in draw_rounds(case):
        entries = {
            Key(case.model, number, device, UPDATE): array for device, array in updates.items()
        }
        shares = dict.fromkeys(entries, 1 / A_ROUND)
        entries[Key(case.model, number, SERVER, MODEL)] = model
        for key, array in entries.items():
            put(store, peers, case, key, array, shares if key.kind == MODEL else {}, found.puts)
        if number > case.num_rounds - case.num_asked:
            if not is_warm:
                ask_all(store, peers, case, number, min(updates), Measured({}, {}, {}))
                is_warm = True
            ask_all(store, peers, case, number, min(updates), found)
    return found


def put(
    store: RoundStore,
    peers: dict[str, Aggregator],
    case: Case,
    key: Key,
    array: Any,
    made_from: dict[Key, float],
    seconds: dict[str, list[float]],
) -> None:
    """Put an entry everywhere; in the cache, if it is asked for later."""
    metrics = {"loss": 1 / (1 + key.round), "accuracy": 0.5, "num_examples": 100.0}
    metrics["seconds"] = 1.0 + array[0].item() % 1
    started = time.perf_counter()
    entry = store.ingest(key, {"weights": array}, metrics, made_from=made_from)
    seconds.setdefault("ours", []).append(time.perf_counter() - started)
    content = layout.encode({"weights": array})
    for label, peer in peers.items():
        if label == "cache" and key.round < case.num_rounds - case.num_asked:
            continue
        started = time.perf_counter()
        peer.put(entry, content, made_from)
        seconds.setdefault(label, []).append(time.perf_counter() - started)


def ask_all(
    store: RoundStore,
    peers: dict[str, Aggregator],
    case: Case,
    number: int,
    device: str,
    found: Measured,
) -> None:
    """Ask each workload of everybody in turns."""
    for name in WORKLOADS:
        question = Question(case.model, number, device)
        seconds = found.asked.setdefault(name, {})
        started = time.perf_counter()
        store.ask(name, question)
        seconds.setdefault("ours", []).append(time.perf_counter() - started)
        store.settle()
        for label, peer in peers.items():
            if label == "cache" and name in LONG:
                continue
            started = time.perf_counter()
            peer.ask(name, question)
            seconds.setdefault(label, []).append(time.perf_counter() - started)
            found.reads[name, label] = (peer.fetched.num_reads, peer.fetched.num_bytes)


def rows_of(store: RoundStore, case: Case, found: Measured) -> list[dict[str, Any]]:
    """Return a row for each workload: latency, hits, and a month's cost."""
    prices = load_prices()
    stored = float(sum(entry.num_bytes for entry in store.history.catalog.entries(case.model)))
    one = 4.0 * MODELS[case.model]
    rows = []
    for name, work in WORKLOADS.items():
        handled = [each for each in store.handled() if each.workload == name][1:]
        num_reads = sum(each.num_reads for each in handled)
        seconds = found.asked[name]
        mean = {label: statistics.fmean(each) for label, each in seconds.items()}
        worked = max(each.num_reads for each in handled) * one
        ours = serverless_bill(
            prices, monthly(mean["ours"], (0, 0), worked), (A_ROUND + 1) * one, stored
        )
        row: dict[str, Any] = {
            "model": case.model,
            "workload": name,
            "class": str(work.access),
            "ours_ms": 1e3 * statistics.median(seconds["ours"]),
            "hits": sum(each.num_hits for each in handled) / num_reads if num_reads else 1.0,
            "num_asked": len(handled),
        }
        for label in ("objects", "cache"):
            is_there = label in seconds
            row[f"{label}_ms"] = 1e3 * statistics.median(seconds.get(label, [math.nan]))
            row[f"{label}_times"] = mean.get(label, math.nan) / mean["ours"]
            cached = stored if label == "cache" else 0
            demand = monthly(mean.get(label, 0), found.reads.get((name, label), (0, 0)), worked)
            for kind, is_always_on in (("", True), ("busy_", False)):
                theirs = aggregator_bill(prices, demand, stored, cached, is_always_on=is_always_on)
                less = 1 - ours.total / theirs.total
                row[f"cost_less_than_{kind}{label}"] = less if is_there else math.nan
        rows.append(row)
    return rows


# They read a device's whole history, of which a cache of some rounds has too little.
LONG = ("reputation", "unlearning", "convergence")


def monthly(seconds: float, reads: tuple[int, int], worked_bytes: float) -> Demand:
    """Return a month's demand, at FLStore's rate."""
    months = 730 / ACCESSIBLE_HOURS
    return Demand(REQUESTS * months, seconds, reads[1], reads[0], worked_bytes)


def measure(case: Case, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return a case's rows, and a line about puts."""
    redis_program = find_redis()
    with object_server(folder / "s3") as address:
        storage = S3Store(
            BUCKET,
            config={
                "endpoint": address,
                "access_key_id": "key",
                "secret_access_key": "secret",
                "region": "us-east-1",
            },
            client_options={"allow_http": True, "timeout": "600s"},
        )
        peers = {"objects": Aggregator(ObjectStore(storage))}
        if redis_program is None:
            return run(case, folder, peers)
        import redis

        with cache_server(redis_program, folder, 16 << 30) as socket:
            peers["cache"] = Aggregator(Cache(redis.Redis(unix_socket_path=socket)))
            return run(case, folder, peers)


def run(case: Case, folder: Path, peers: dict[str, Aggregator]) -> tuple[list[dict[str, Any]], str]:
    """Fill everything, ask everybody."""
    memory = 40 * 4 * MODELS[case.model] + (64 << 20)
    with open_round_store(
        str(folder / "ours"), memory_bytes=memory, num_instances=1, must_exist=False
    ) as store:
        found = run_rounds(store, case, peers)
        rows = rows_of(store, case, found)
    told = ", ".join(
        f"{label} {1e3 * statistics.median(each):.0f} ms" for label, each in found.puts.items()
    )
    return rows, f"{case.model}: {case.num_rounds} rounds of {A_ROUND}; a put: {told}"


def main() -> None:
    """Measure and report."""
    parser = make_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["resnet-18", "vit-tiny"])
    parser.add_argument("--rounds", type=int, default=50)
    found = parser.parse_args()
    choices = choices_of(found)
    cases = [Case(model, found.rounds, min(4, found.rounds)) for model in found.models]
    if choices.quick:
        cases = [Case("tiny", 4, 2)]
    rows, notes = [], []
    os.environ.pop("AWS_ACCESS_KEY_ID", None)
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            found_rows, note = measure(case, Path(folder))
        rows += found_rows
        notes.append(note)
    if find_redis() is None:
        notes.append("no Redis: pip install redis, and `make redis` unpacks the server")
    title = (__doc__ or "").splitlines()[0]
    packages = (*PACKAGES, "obstore")
    report(title, rows, COLUMNS, choices, notes=tuple(notes), about=stamp(packages))


if __name__ == "__main__":
    main()
