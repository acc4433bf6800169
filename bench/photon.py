"""What does a model lose that is trained by clients far apart, and what does it save to send?

A decoder learns real text: on one machine with the batch of all clients, which is what averaging
gradients at every step comes to; by clients that average once in 64 steps (Photon); and the same
with DiLoCo's server. All arms see as many tokens, so they compute as much, and complete their
schedules. Learning rates are swept for each arm on its own, the server's, too; the best by the last
held-out loss are run with other seeds. Each run is a row, written as soon as it is known.

``--quick`` is a rehearsal on the words of our own documents. ``--short`` has the main arms once, in
ten minutes on two cores, and shares its rows with the full form. ``--resume`` goes on from the rows
of ``--json``; ``--local-batch`` and ``--rounds`` make another study, with a file of its own.
``--torch`` trains by torch alone, on a GPU if there is one, and there a model of 25M parameters.
The text is Debian's: ``hocket photon data`` makes tokens of it, where ``--data`` says.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from harness import PACKAGES, ROOT, choices_of, make_parser, report, stamp, write_rows
from training.photon_arms import (
    CENTRALISED,
    DILOCO,
    LEVELS,
    PHOTON,
    Arm,
    Job,
    Level,
    train,
    training_of,
)
from training.torch_gpt import TorchGpt, distance_from_averaging

from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.shards import ShardClients, TokenShards, write_shards
from hocket.fl.photon.wall_time import Exchange, Workload
from hocket.photon_parts import compile_gpt, make_backend
from hocket.runtime.artifact import load_artifact, save_artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

    from hocket.fl.core.backend import Backend
    from hocket.fl.photon.sizes import GptSize

COLUMNS = {
    "arm": "s",
    "learning_rate": ".0e",
    "outer_rate": ".2g",
    "seeds": "d",
    "tokens": ",.0f",
    "perplexity": ".2f",
    "spread": ".2f",
    "of_centralised": ".3f",
    "sent_mb": ",.1f",
    "fewer_bytes": ",.0f",
    "minutes_100_mbps": ",.1f",
    "minutes_1_gbps": ",.1f",
    "minutes_10_gbps": ",.1f",
}
BANDWIDTHS = {"minutes_100_mbps": 1e8, "minutes_1_gbps": 1e9, "minutes_10_gbps": 1e10}
"""Of the server's link, which all that is sent passes, after all are done computing."""


def next_jobs(arms: Iterable[Arm], rows: list[dict[str, Any]]) -> list[Job]:
    """Return the runs that can be begun now: the sweep of each arm, then its best with other seeds.

    Args:
        arms: What is wanted.
        rows: What is known already.
    """
    known = {Job.of(row) for row in rows}
    swept = {
        arm.name: [Job(arm.name, rate, outer, 0) for rate in arm.rates for outer in arm.outer_rates]
        for arm in arms
    }
    wanted = []
    for arm in arms:
        sweep = swept[arm.like or arm.name]
        wanted += swept[arm.name]
        if known.issuperset(sweep):
            best = best_of([row for row in rows if Job.of(row) in sweep])
            found = Job(arm.name, best["learning_rate"], best["outer_rate"], 0)
            wanted += [replace(found, seed=seed) for seed in range(arm.num_seeds)]
    return [job for job in dict.fromkeys(wanted) if job not in known]


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the least loss."""
    return min(rows, key=lambda row: row["loss"])


def summarise(level: Level, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row an arm: its best rates, in the mean over seeds."""
    found = {}
    for arm in level.arms:
        mine = [row for row in rows if row["arm"] == arm.name]
        if not mine:
            continue
        best = best_of([row for row in mine if row["seed"] == 0])
        rates = (best["learning_rate"], best["outer_rate"])
        same = [row for row in mine if (row["learning_rate"], row["outer_rate"]) == rates]
        perplexities = [math.exp(row["loss"]) for row in same]
        found[arm.name] = {
            **best,
            "seeds": len(same),
            "losses": [row["loss"] for row in same],
            "perplexity": statistics.fmean(perplexities),
            "spread": statistics.stdev(perplexities) if len(same) > 1 else math.nan,
            "curve": [
                statistics.fmean(losses)
                for losses in zip(*(row["curve"] for row in same), strict=True)
            ],
            "sent_mb": best["sent_bytes"] / 1e6,
        }
    central, photon = found[CENTRALISED], found[PHOTON]
    # Of a client; who averages at each step takes steps of that size, too.
    step_seconds = photon["cpu_seconds"] / level.study.clients / photon["steps"]
    for row in found.values():
        row["of_centralised"] = row["perplexity"] / central["perplexity"]
        row["fewer_bytes"] = central["sent_bytes"] / row["sent_bytes"]
        workload = Workload(row["steps"] * step_seconds, row["exchanges"])
        exchange = Exchange(
            "parameter-server",
            level.study.clients,
            row["sent_bytes"] / row["exchanges"] / level.study.clients,
        )
        for name, bandwidth in BANDWIDTHS.items():
            row[name] = workload.seconds(exchange, bandwidth) / 60
    return list(found.values())


def notes_of(shown: list[dict[str, Any]]) -> list[str]:
    """Return what follows from the rows."""
    by_name = {row["arm"]: row for row in shown}
    photon = by_name[PHOTON]
    lines = [
        _say_tokens_to(photon, by_name[name]) for name in (DILOCO, CENTRALISED) if name in by_name
    ]
    for name in ("Photon int8", "Photon int4", "Photon bf16"):
        if name in by_name:
            pairs = zip(by_name[name]["losses"], photon["losses"], strict=False)
            changes = [math.exp(one - other) - 1 for one, other in pairs]
            lines.append(
                f"{name} changes its last perplexity by "
                + ", ".join(f"{change:+.2%}" for change in changes)
                + " (a seed each)"
            )
    parts = [
        row for row in shown if row["arm"].startswith(CENTRALISED) and "batch" not in row["arm"]
    ]
    for label, bandwidth in BANDWIDTHS.items():
        share = photon[label] / by_name[CENTRALISED][label]
        lines.append(
            f"in the time that Photon takes at {bandwidth / 1e9:g} Gbps, averaging at each step "
            f"gets through {min(share, 1):.3f} of the tokens{_perplexity_at(parts, share)}"
        )
    return lines


def _say_tokens_to(photon: dict[str, Any], other: dict[str, Any]) -> str:
    curve, wanted = photon["curve"], other["curve"][-1]
    reached = [number for number, loss in enumerate(curve, 1) if loss <= wanted]
    when = f"after {reached[0] / len(curve):.2f} of its tokens" if reached else "never"
    return f"Photon reaches the last loss of {other['arm']} ({wanted:.3f}) {when}"


def _perplexity_at(parts: list[dict[str, Any]], share: float) -> str:
    """Return what completed runs say of one of a share of the tokens, between two of them."""
    known = sorted((math.log(row["tokens"]), math.log(row["perplexity"])) for row in parts)
    at = known[-1][0] + math.log(share)
    for (start, low), (stop, high) in pairwise(known):
        if start <= at <= stop:
            found = low + (high - low) * (at - start) / (stop - start)
            return f": perplexity {math.exp(found):.2f}, by runs of that length"
    return ""


def own_words(folder: Path) -> TokenShards:
    """Return our own documents and code as bytes, of four kinds, for a rehearsal."""
    kinds = {"docs": "docs/*.md", "runtime": "runtime/*.py", "compiler": "compiler/*.py"}
    kinds["federated"] = "fl/*/*.py"
    documents = {
        name: [part for path in sorted(ROOT.glob(files)) for part in path.read_text().split("\n\n")]
        for name, files in kinds.items()
    }
    return write_shards(folder, documents, lambda text: text.encode(), 257, end_of_text=256)


@dataclass(frozen=True)
class Files:
    """What runs read and write.

    Attributes:
        data: Folder of the text.
        module: File of the compiled model; empty for torch's.
        result: Where rows are written, if anywhere.
    """

    data: str = ""
    module: str = ""
    result: Path | None = None

    def make_backend(self, size: GptSize) -> Backend:
        """Return what trains: the compiled model, or torch's of this size."""
        return make_backend(load_artifact(Path(self.module))) if self.module else TorchGpt(size)


_backend: Backend | None = None
"""Of this process, which makes it once."""


def run_job(level: Level, job: Job, files: Files) -> dict[str, Any]:
    """Return the row of a run."""
    global _backend  # noqa: PLW0603 - kernels and programs are kept from run to run
    torch.set_num_threads(1)
    if _backend is None:
        _backend = files.make_backend(level.study.size)
    arm = next(each for each in level.arms if each.name == job.arm)
    return train(level.study, arm, job, _backend, TokenShards(files.data))


def measure(
    level: Level, wanted: Sequence[str], files: Files, rows: list[dict[str, Any]], workers: int
) -> list[dict[str, Any]]:
    """Return all rows, having written each as soon as it was known.

    Args:
        level: What is measured.
        wanted: Names of the arms that are run now.
        files: What is read, and where rows are written.
        rows: That are known already.
        workers: Processes; 0 for this one.
    """
    rows = list(rows)

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if files.result is not None:
            write_rows(question_of(level), rows, files.result, about())
        print(f"{Job.of(row)}: loss {row['loss']:.4f}", flush=True)

    def waiting_jobs() -> list[Job]:
        return [job for job in next_jobs(level.arms, rows) if job.arm in wanted]

    if not workers:
        while jobs := waiting_jobs():
            keep(run_job(level, jobs[0], files))
        return rows
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        begun: dict[Future[dict[str, Any]], Job] = {}
        while True:
            for job in waiting_jobs():
                if job not in begun.values():
                    begun[pool.submit(run_job, level, job, files)] = job
            if not begun:
                return rows
            done = next(as_completed(begun))
            begun.pop(done)
            keep(done.result())


def known_rows(level: Level, path: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a file to go on from; none if there is no file."""
    if path is None or not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["question"] != question_of(level):
        raise SystemExit(f"{path} answers {content['question']!r}; give another file")
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def question_of(level: Level) -> str:
    """Return the title of the table."""
    study = level.study
    return (
        f"held-out perplexity of {study.size}; {study.clients} clients of {study.local_batch} "
        f"sequences, {study.rounds} rounds of {study.local_steps} steps"
    )


def about() -> dict[str, Any]:
    """Return what figures depend on."""
    return stamp((*PACKAGES, "tokenizers", "torch"))


def averaging_note(level: Level, files: Files, num_steps: int = 20) -> str:
    """Return how close the centralised arm is to averaging gradients at every step."""
    torch.set_num_threads(1)
    study, arm = level.study, level.arms[0]
    training = replace(
        training_of(study, arm, arm.rates[0]), warmup_steps=num_steps // 4, decay_steps=num_steps
    )
    texts = ShardClients(TokenShards(files.data), study.size.context, 1)
    examples = texts.take("client-000", 0, training.batch_size * num_steps)
    backend = files.make_backend(study.size)
    distance = distance_from_averaging(backend, Gpt(study.size), training, examples, study.clients)
    return (
        f"{num_steps} steps with the whole batch end {distance:.1e} of their way from where torch "
        f"ends that averages the gradients of {study.clients} workers at every step"
    )


def main() -> None:
    """Measure, and say what was found."""
    parser = make_parser(__doc__ or "")
    home = os.environ.get("HOCKET_DATA_DIR", "") or Path.home() / ".cache" / "hocket" / "data"
    parser.add_argument("--short", action="store_true", help="ten minutes on two cores")
    parser.add_argument("--resume", action="store_true", help="go on from the rows of --json")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--seeds", type=int, help="runs of each arm that is swept, with its best")
    parser.add_argument("--local-batch", type=int, metavar="N", help="sequences of a client's step")
    parser.add_argument("--rounds", type=int, metavar="N", help="of a federated arm")
    parser.add_argument("--torch", action="store_true", help="by torch alone, on a GPU if any")
    parser.add_argument("--data", type=Path, default=Path(home) / "shards-512", help="of shards")
    parser.add_argument("--workers", type=int, default=2, help="runs at once, of one thread")
    found = parser.parse_args()
    choices = choices_of(found)
    name = "quick" if found.quick else "short" if found.short else "full"
    if found.torch and torch.cuda.is_available() and name == "full":
        name = "gpu"
    level = LEVELS[name]
    other = {"local_batch": found.local_batch, "rounds": found.rounds}
    given = {key: value for key, value in other.items() if value}
    level = replace(level, study=replace(level.study, **given))
    if found.seeds:
        arms = (arm if arm.like else replace(arm, num_seeds=found.seeds) for arm in level.arms)
        level = replace(level, arms=tuple(arms))
    wanted = found.arms or [arm.name for arm in level.arms]
    with tempfile.TemporaryDirectory() as temporary:
        files = Files(str(found.data), "", choices.json_path)
        if found.quick:
            files = replace(files, data=own_words(Path(temporary) / "shards").folder)
        elif not (found.data / "manifest.json").exists():
            print(f"no text in {found.data}: run `make photon-data` first; nothing is measured")
            return
        size, texts = level.study.size, TokenShards(files.data)
        if texts.vocabulary > size.vocabulary:
            raise SystemExit(f"{found.data} has {texts.vocabulary} tokens; the model is of {size}")
        rows = known_rows(level, choices.json_path) if found.resume else []
        if not found.torch:
            files = replace(files, module=str(Path(temporary) / "model.hkt"))
            most = level.study.local_batch * level.study.clients
            save_artifact(compile_gpt(size, 0, most), Path(files.module))
        # A rehearsal is over before other processes would have begun.
        rows = measure(level, wanted, files, rows, 0 if found.quick else found.workers)
        note = averaging_note(level, files)
    if not {CENTRALISED, PHOTON} <= {row["arm"] for row in rows}:
        print("there is nothing to compare with yet")
        return
    shown = summarise(level, rows)
    report(
        question_of(level),
        rows,
        COLUMNS,
        choices,
        shown=shown,
        notes=(note, *notes_of(shown)),
        about=about(),
    )


if __name__ == "__main__":
    main()
