"""What does a model lose that is trained by clients far apart, and what does it save to send?

A decoder learns real text: on one machine with the batch of all clients, which is what averaging
gradients at every step comes to; by clients that average once in 64 steps (Photon); and the same
with DiLoCo's server. All arms see as many tokens, so they compute as much, and complete their
schedules. Learning rates are swept for each arm on its own, the server's, too; the best by the last
held-out loss are run with other seeds. Each run is a row, written as soon as it is known.

``--quick`` is a rehearsal on the words of our own documents. ``--short`` takes ten minutes on two
cores. ``--resume`` goes on from the rows of ``--json``. ``--torch`` trains by torch alone, on a GPU
if there is one, and there a model of 25M parameters. The text is Debian's: ``hocket photon data``
makes tokens of it, where ``--data`` says.
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
from harness import PACKAGES, ROOT, choices_of, make_parser, report, stamp, write_result
from training.photon_arms import Arm, Job, Study, train, training_of
from training.torch_gpt import TorchGpt, distance_from_averaging

from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.shards import ShardClients, TokenShards, write_shards
from hocket.fl.photon.sizes import SIZES, GptSize
from hocket.fl.photon.wall_time import Exchange, Workload
from hocket.photon_parts import compile_gpt, make_backend
from hocket.runtime.artifact import load_artifact, save_artifact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.fl.core.backend import Backend

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

CENTRALISED, PHOTON, DILOCO = "centralised", "Photon", "DiLoCo"
RATES, OUTER_RATES = (2e-3, 4e-3, 8e-3), (0.3, 0.7)


@dataclass(frozen=True)
class Level:
    """How much is measured.

    Attributes:
        study: What all arms have in common.
        arms: Which there are.
    """

    study: Study
    arms: tuple[Arm, ...]


def arms_of(rates: tuple[float, ...], outer_rates: tuple[float, ...], seeds: int) -> list[Arm]:
    """Return all arms.

    Args:
        rates: Learning rates to try for those that are swept.
        outer_rates: Of DiLoCo's server to try.
        seeds: Runs of the main ones.
    """
    return [
        Arm(CENTRALISED, is_federated=False, rates=rates, num_seeds=seeds),
        Arm(PHOTON, rates=rates, num_seeds=seeds),
        Arm(DILOCO, server="diloco", rates=rates, outer_rates=outer_rates, num_seeds=seeds),
        Arm("Photon by source", by_source=True, rates=rates, num_seeds=seeds),
        # What only the link is different of takes over the rate; so do parts of a run.
        Arm("Photon int8", scheme="int8", like=PHOTON, num_seeds=seeds),
        Arm("Photon int4", scheme="int4", like=PHOTON, num_seeds=seeds),
        Arm("Photon bf16", scheme="bf16", like=PHOTON),
        Arm("Photon stateless", keep_optimizer=False, like=PHOTON),
        Arm("centralised, 1/2", is_federated=False, rounds_factor=1 / 2, like=CENTRALISED),
        Arm("centralised, 1/8", is_federated=False, rounds_factor=1 / 8, like=CENTRALISED),
        Arm(
            "centralised, small batch",
            is_federated=False,
            batch_factor=1 / 4,
            rates=rates[:2],
        ),
    ]


_TINY = GptSize(1, 32, 2, vocabulary=257, context=32)
_SMALL = GptSize(2, 96, 3, vocabulary=512, context=64)
LEVELS = {
    "quick": Level(
        Study(_TINY, 4, 2, 8, 2, 1, 8),
        (
            Arm(CENTRALISED, is_federated=False, rates=(4e-3,)),
            Arm(PHOTON, rates=(4e-3,)),
            Arm(DILOCO, server="diloco", rates=(4e-3,)),
            Arm("Photon int8", scheme="int8", like=PHOTON),
        ),
    ),
    "short": Level(Study(_SMALL, 4, 2, 64, 60, 4, 128), tuple(arms_of((4e-3,), (0.7,), 1)[:5])),
    "full": Level(Study(_SMALL, 4, 4, 64, 160, 8, 256), tuple(arms_of(RATES, OUTER_RATES, 3))),
    "gpu": Level(
        Study(SIZES["25M"], 4, 16, 64, 200, 8, 256),
        tuple(arms_of((5e-4, 1e-3, 2e-3), OUTER_RATES, 3)),
    ),
}


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


_backend: Backend | None = None
"""Of this process, which makes it once."""


def run_job(level: Level, job: Job, module: str, data: str) -> dict[str, Any]:
    """Return the row of a run.

    Args:
        level: What it is part of.
        job: Which run.
        module: File of the compiled model; empty for torch's.
        data: Folder of the text.
    """
    global _backend  # noqa: PLW0603 - kernels and programs are kept from run to run
    torch.set_num_threads(1)
    if _backend is None:
        size = level.study.size
        _backend = make_backend(load_artifact(Path(module))) if module else TorchGpt(size)
    arm = next(each for each in level.arms if each.name == job.arm)
    return train(level.study, arm, job, _backend, TokenShards(data))


def measure(
    level: Level,
    path: Path | None,
    rows: list[dict[str, Any]],
    module: str,
    data: str,
    workers: int,
) -> list[dict[str, Any]]:
    """Return all rows, having written each as soon as it was known.

    Args:
        level: What is measured.
        path: Where rows are written, if anywhere.
        rows: That are known already.
        module: File of the compiled model; empty for torch's.
        data: Folder of the text.
        workers: Processes; 0 for this one.
    """
    rows = list(rows)

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if path is not None:
            write_result(path, question_of(level), rows, about())
        print(f"{Job.of(row)}: loss {row['loss']:.4f}", flush=True)

    if not workers:
        while jobs := next_jobs(level.arms, rows):
            keep(run_job(level, jobs[0], module, data))
        return rows
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: dict[Any, Job] = {}
        while True:
            for job in next_jobs(level.arms, rows):
                if job not in waiting.values():
                    waiting[pool.submit(run_job, level, job, module, data)] = job
            if not waiting:
                return rows
            done = next(as_completed(waiting))
            waiting.pop(done)
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


def averaging_note(level: Level, module: str, data: str, num_steps: int = 20) -> str:
    """Return how close the centralised arm is to averaging gradients at every step."""
    torch.set_num_threads(1)
    study, arm = level.study, level.arms[0]
    backend = make_backend(load_artifact(Path(module))) if module else TorchGpt(study.size)
    training = replace(
        training_of(study, arm, arm.rates[0]), warmup_steps=num_steps // 4, decay_steps=num_steps
    )
    texts = ShardClients(TokenShards(data), study.size.context, 1)
    examples = texts.take("client-000", 0, training.batch_size * num_steps)
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
    parser.add_argument("--torch", action="store_true", help="by torch alone, on a GPU if any")
    parser.add_argument("--data", type=Path, default=Path(home) / "shards-512", help="of shards")
    parser.add_argument("--workers", type=int, default=2, help="runs at once, of one thread")
    found = parser.parse_args()
    choices = choices_of(found)
    name = "quick" if found.quick else "short" if found.short else "full"
    if found.torch and torch.cuda.is_available() and name == "full":
        name = "gpu"
    level = LEVELS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), str(found.data)
        if found.quick:
            data = own_words(folder / "shards").folder
        elif not (found.data / "manifest.json").exists():
            print(f"no text in {data}: run `make photon-data` first; nothing is measured")
            return
        rows = known_rows(level, choices.json_path) if found.resume else []
        module = "" if found.torch else str(folder / "model.hkt")
        if module:
            most = level.study.local_batch * level.study.clients
            save_artifact(compile_gpt(level.study.size, 0, most), Path(module))
        # A rehearsal is over before other processes would have begun.
        workers = 0 if found.quick else found.workers
        rows = measure(level, choices.json_path, rows, module, data, workers)
        notes = [averaging_note(level, module, data)]
    shown = summarise(level, rows)
    report(
        question_of(level),
        rows,
        COLUMNS,
        choices,
        shown=shown,
        notes=(*notes, *notes_of(shown)),
        about=about(),
    )


if __name__ == "__main__":
    main()
