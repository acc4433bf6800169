"""How long do questions about updates take, and what do they cost, beside aggregators as they are?

A job's updates go to our store, to an object store (rclone, by S3's protocol) and to a cache server
(Redis, by `make redis`), all on this machine; then each workload is asked of the newest rounds in
turns: of our store, and of aggregators that fetch from the other two and have our kernels. There is
no network between them, which favours the aggregators; rclone is no fast object store, which does
not. Aggregators have the rounds only that are asked for.

Columns: median latency; how many times longer the aggregators took; hits of tailored policies; by
how much less a month costs, at 3,000 requests in 50 hours (FLStore's rate), than with an aggregator
that is always on. Below: costs at other rates, hit rates of policies, passes over what is resident,
requests while instances are killed, and what recording adds to a round.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import PACKAGES, choices_of, make_parser, read_rows, report, stamp, write_rows
from obstore.store import S3Store
from store.aggregators import Aggregator, Cache, ObjectStore
from store.faults import fault_row
from store.passes import pass_rows
from store.policies import policy_rows
from store.requests import FULL_PASSES, Case, rows_of, run_rounds
from store.servers import BUCKET, cache_server, find_redis, object_server

from hocket.store_parts import open_round_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
CASES = {
    "resnet-18": Case("resnet-18", 50, 1),
    # Half a gigabyte an update: no more than a round of them is in 24 GiB in three places.
    "gpt-125m": Case(
        "gpt-125m", 2, 1, ("cosine-scheduling", "filtering", "clustering", *FULL_PASSES)
    ),
    "vit-tiny": Case("vit-tiny", 50, 2),
}
QUICK = Case("tiny", 4, 2)
# Rooms for entries: a round and its model, and a device's history of some rounds.
NUM_HELD = {"gpt-125m": 13}
PARTS = ("policies", "faults", "passes", "recording", "requests")


def measure(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Return a case's rows."""
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


def run(case: Case, folder: Path, peers: Mapping[str, Aggregator]) -> list[dict[str, Any]]:
    """Fill everything, ask everybody."""
    memory = NUM_HELD.get(case.model, 60) * case.num_bytes * 9 // 8 + (64 << 20)
    with open_round_store(
        str(folder / "ours"), memory_bytes=memory, num_instances=1, must_exist=False
    ) as store:
        return rows_of(store, case, run_rounds(store, case, peers))


def parts_of(
    models: list[str], wanted: list[str], num_rounds: int | None = None, *, is_quick: bool
) -> dict[str, Callable[[Path], Any]]:
    """Return what is measured, by a name that its rows have."""
    cases = [QUICK] if is_quick else [CASES[model] for model in models]
    found: dict[str, Callable[[Path], Any]] = {
        "policies": lambda _: policy_rows(60 if is_quick else 2000)
    }
    if not is_quick:
        # It loads torch, which the short form does without.
        from store.recording import recording_row

        found["faults"] = lambda folder: [fault_row(folder / "faults", 10_000, 500)]
        found["passes"] = lambda _: pass_rows("resnet-18")
        found["recording"] = lambda folder: [recording_row(folder)]
    if num_rounds is not None:
        cases = [replace(case, num_rounds=num_rounds) for case in cases]
    for case in cases:
        found[f"requests of {case.model}"] = lambda folder, case=case: measure(case, folder)
    return {name: part for name, part in found.items() if name.split()[0] in wanted}


def main() -> None:
    """Measure and report."""
    parser = make_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="put so many, not as many as a model's case has")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has")
    found = parser.parse_args()
    choices = choices_of(found)
    about = stamp((*PACKAGES, "obstore"))
    title = (__doc__ or "").splitlines()[0]
    rows = read_rows(choices.json_path) if found.resume and choices.json_path else []
    os.environ.pop("AWS_ACCESS_KEY_ID", None)
    for name, part in parts_of(
        found.models, found.parts, found.rounds, is_quick=found.quick
    ).items():
        if name in {row["measured"] for row in rows}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            about_part = {"measured": name, "commit": about["commit"]}
            rows += [about_part | row for row in part(Path(folder))]
        if choices.json_path is not None:
            write_rows(title, rows, choices.json_path, about)
    shown = [
        {**dict.fromkeys(COLUMNS, float("nan")), **{k: v for k, v in row.items() if v is not None}}
        for row in rows
        if row["part"] == "requests"
    ]
    notes = [_told(row) for row in rows if row["part"] != "requests"]
    if find_redis() is None:
        notes.append("no Redis: pip install redis, and `make redis` unpacks the server")
    report(title, rows, COLUMNS, choices, shown=shown, notes=tuple(notes), about=about)


def _told(row: dict[str, Any]) -> str:
    left_out = ("measured", "part", "commit")
    return f"{row['part']}: " + ", ".join(
        f"{name.replace('_', ' ')} {_text(value)}"
        for name, value in row.items()
        if name not in left_out and value is not None
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_text(each)}" for name, each in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
