"""What does a model lose that is trained by clients far apart, and what does it save to send?

A decoder learns real text: on one machine with the whole batch, by clients that average after many
steps (Photon), and the same with DiLoCo's server. All arms see as many tokens, and all complete
their schedules unless they say ``stretched``. A learning rate is swept for each arm on its own; the
best of them by the last held-out loss is shown, and all are in the JSON. ``--quick`` takes ten
minutes on two cores. The text is Debian's: ``hocket photon data`` puts it where ``--data`` says.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import PACKAGES, Choices, choices_of, make_parser, report, stamp
from torch.nn import functional

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Plan
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.store import MemoryStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.recipe import SERVER_OPTIMIZERS, Recipe
from hocket.fl.photon.server import PhotonServer, ledger_of
from hocket.fl.photon.shards import ShardClients, TokenShards
from hocket.fl.photon.sizes import SIZES
from hocket.photon_parts import compile_gpt, make_backend
from hocket.runtime.artifact import load_artifact, save_artifact

SIZE = SIZES["1M"]
CLIENTS, LOCAL_BATCH, LOCAL_STEPS = 4, 8, 64
HELD_OUT = 64
ROUND_TOKENS = CLIENTS * LOCAL_BATCH * LOCAL_STEPS * SIZE.context

COLUMNS = {
    "arm": "s",
    "learning_rate": ".0e",
    "tokens": ",.0f",
    "perplexity": ".1f",
    "of_centralised": ".3f",
    "spread": ".3f",
    "sent_mb": ",.1f",
    "fewer_bytes": ",.0f",
    "seconds_100_mbps": ",.0f",
    "seconds_1_gbps": ",.0f",
}
BANDWIDTHS = {"seconds_100_mbps": 1e8, "seconds_1_gbps": 1e9}
"""Of the server's link, through which all that is sent goes, after all are done computing."""


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: For the table.
        clients: That share a round's tokens.
        server: Name of the server's optimizer.
        by_source: Whether each client has text of its own kind.
        scheme: How updates are sent.
        keep_optimizer: Whether clients keep Adam's moments.
        stretch: How much longer than the run the schedule is.
    """

    name: str
    clients: int = CLIENTS
    server: str = "fedavg"
    by_source: bool = False
    scheme: str = "float32"
    keep_optimizer: bool = True
    stretch: int = 1


CENTRALISED = Arm("centralised", clients=1)
PHOTON = Arm("Photon")
DILOCO = Arm("DiLoCo", server="diloco")
QUICK_ARMS = (
    CENTRALISED,
    PHOTON,
    DILOCO,
    Arm("Photon by source", by_source=True),
    Arm("Photon int8", scheme="int8"),
)
ARMS = (
    *QUICK_ARMS,
    Arm("Photon int4", scheme="int4"),
    Arm("Photon stateless", keep_optimizer=False),
    Arm("Photon stretched", stretch=CLIENTS),
    Arm("DiLoCo by source", server="diloco", by_source=True),
)
RATES, QUICK_RATES = (1e-3, 2e-3, 4e-3, 8e-3), (2e-3, 4e-3)
ROUNDS, QUICK_ROUNDS = 20, 4
SEEDS, QUICK_SEEDS = 3, 1


def train(
    arm: Arm, rate: float, seed: int, num_rounds: int, data: str, module: str
) -> dict[str, Any]:
    """Train an arm and return its row."""
    torch.set_num_threads(1)
    artifact = load_artifact(Path(module))
    clients = ShardClients(TokenShards(data), SIZE.context, arm.clients, arm.by_source, seed)
    backend, store = make_backend(artifact), MemoryStore()
    backend.load_parameters(
        {name: each.detach().numpy() for name, each in Gpt(SIZE, seed).named_parameters()}
    )
    start = backend.parameters()
    training = LocalTraining(
        batch_size=LOCAL_BATCH * CLIENTS // arm.clients,
        optimizer="adamw",
        learning_rate=rate,
        clip_norm=1.0,
        beta_2=0.95,
        warmup_steps=num_rounds * LOCAL_STEPS // 20 * arm.stretch,
        decay_steps=num_rounds * LOCAL_STEPS * arm.stretch,
        final_share=0.1,
        keep_optimizer=arm.keep_optimizer,
    )
    measured: list[float] = []

    def evaluate(parameters: Any) -> dict[str, float]:
        backend.load_parameters(parameters)
        held = [clients.held_out(source, HELD_OUT) for source in clients.shards.sources]
        measured.append(float(np.mean([backend.evaluate(each).metrics["loss"] for each in held])))
        return {"loss": measured[-1]}

    server = PhotonServer(
        plan=Plan("bench", num_rounds, seed),
        recipe=Recipe(
            training,
            LOCAL_STEPS,
            SIZE.context,
            server_optimizer=SERVER_OPTIMIZERS[arm.server],
            scheme=arm.scheme,
        ),
        engine=InProcessEngine(_Made(PhotonClient(backend, clients, store)), WallClock()),
        store=store,
        clock=WallClock(),
        evaluate=evaluate,
    )
    began = time.process_time()
    progress = server.run(server.begin(start))
    ledger = ledger_of(progress.state)
    # Who averages at each step sends every gradient up and its mean down.
    each_step = 2 * CLIENTS * LOCAL_STEPS * num_rounds * num_bytes(start)
    sent = ledger.uploaded_bytes + ledger.downloaded_bytes if arm.clients > 1 else each_step
    return {
        "arm": arm.name,
        "learning_rate": rate,
        "seed": seed,
        "tokens": ledger.tokens,
        "losses": measured,
        "loss": measured[-1],
        "sent_mb": sent / 1e6,
        "fewer_bytes": each_step / sent,
        "cpu_seconds": time.process_time() - began,
        "refused": sum(each.num_failures for each in progress.reports),
    }


@dataclass(frozen=True)
class _Made:
    """A factory of a client that is there already."""

    client: PhotonClient

    def device_ids(self) -> list[str]:
        return self.client.sequences.device_ids()

    def __call__(self) -> PhotonClient:
        return self.client


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row an arm: its best learning rate, in the mean over seeds."""
    best: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["arm"] for row in rows):
        for rate in sorted({row["learning_rate"] for row in rows}):
            mine = [row for row in rows if (row["arm"], row["learning_rate"]) == (name, rate)]
            if not mine:
                continue
            losses = [row["loss"] for row in mine]
            found = {
                **mine[0],
                "loss": statistics.fmean(losses),
                "perplexity": math.exp(statistics.fmean(losses)),
                "spread": statistics.stdev(losses) if len(losses) > 1 else math.nan,
                "curve": np.mean([row["losses"] for row in mine], axis=0).tolist(),
            }
            if name not in best or found["loss"] < best[name]["loss"]:
                best[name] = found
    central = best[CENTRALISED.name]["perplexity"]
    return [
        {
            **row,
            "of_centralised": row["perplexity"] / central,
            # Clients are as many machines, among which the centralised batch is shared, too.
            **{
                name: row["cpu_seconds"] / CLIENTS + 8e6 * row["sent_mb"] / bandwidth
                for name, bandwidth in BANDWIDTHS.items()
            },
        }
        for row in best.values()
    ]


def notes_of(shown: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return what follows from the rows."""
    by_name = {row["arm"]: row for row in shown}
    diloco, photon = by_name[DILOCO.name], by_name[PHOTON.name]
    reached = [n for n, loss in enumerate(photon["curve"], 1) if loss <= diloco["loss"]]
    lines = [
        f"Photon reaches DiLoCo's last loss ({diloco['loss']:.3f}) "
        + (f"after {reached[0] / len(photon['curve']):.2f} of its tokens" if reached else "never")
    ]
    for name in ("Photon int8", "Photon int4"):
        if name in by_name:
            change = by_name[name]["perplexity"] / photon["perplexity"] - 1
            lines.append(f"{name} changes its last perplexity by {change:+.2%}")
    return tuple(lines)


def compare_with_torch(module: str, data: str, num_steps: int = 100) -> str:
    """Return how far training strays from plain torch's, on the same batches."""
    torch.set_num_threads(1)
    backend, plain = make_backend(load_artifact(Path(module))), Gpt(SIZE, 0)
    examples = ShardClients(TokenShards(data), SIZE.context, 1).take("client-000", 0, 8 * num_steps)
    training = LocalTraining(
        batch_size=8, optimizer="adamw", learning_rate=1e-3, beta_2=0.95, clip_norm=1.0
    )
    ours = backend.train(training, examples, 0).metrics["loss"]
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.0)
    losses = []
    for batch in examples.batches(8, np.random.default_rng(0)):
        scores = plain(torch.from_numpy(batch.inputs["ids"]))
        loss = functional.cross_entropy(
            scores.flatten(0, 1), torch.from_numpy(batch.targets).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    start, found = Gpt(SIZE, 0).state_dict(), backend.parameters()
    off = moved = 0.0
    for name, each in plain.state_dict().items():
        off += float(((torch.from_numpy(found[name]) - each) ** 2).sum())
        moved += float(((each - start[name]) ** 2).sum())
    return (
        f"{num_steps} steps of AdamW beside plain torch: mean loss {ours:.6f} and "
        f"{statistics.fmean(losses):.6f}; parameters differ by {math.sqrt(off / moved):.1e} of how "
        "far they went"
    )


def measure(choices: Choices, data: str, workers: int) -> tuple[list[dict[str, Any]], str]:
    """Return a row for each training, and how close to torch they are."""
    quick = choices.quick
    rounds = QUICK_ROUNDS if quick else ROUNDS
    jobs = [
        (arm, rate, seed)
        for arm in (QUICK_ARMS if quick else ARMS)
        for rate in (QUICK_RATES if quick else RATES)
        for seed in range(QUICK_SEEDS if quick else SEEDS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        module = str(Path(folder) / "model.hkt")
        save_artifact(compile_gpt(SIZE, 0, LOCAL_BATCH * CLIENTS), Path(module))
        close = compare_with_torch(module, data)
        work = functools.partial(_train_job, rounds=rounds, data=data, module=module)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            return list(pool.map(work, jobs)), close


def _train_job(
    job: tuple[Arm, float, int], *, rounds: int, data: str, module: str
) -> dict[str, Any]:
    arm, rate, seed = job
    return train(arm, rate, seed, rounds, data, module)


def main() -> None:
    """Measure, and say what was found."""
    parser = make_parser(__doc__ or "")
    home = os.environ.get("HOCKET_DATA_DIR", "") or Path.home() / ".cache" / "hocket" / "data"
    parser.add_argument("--data", type=Path, default=Path(home) / "shards", help="folder of shards")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, of one thread")
    found = parser.parse_args()
    if not (found.data / "manifest.json").exists():
        print(f"no text in {found.data}: run `make photon-data` first; nothing is measured")
        return
    choices = choices_of(found)
    rows, close = measure(choices, str(found.data), found.workers)
    shown = summarise(rows)
    report(
        f"held-out perplexity of {SIZE} at equal tokens; {CLIENTS} clients, {LOCAL_STEPS} steps",
        rows,
        COLUMNS,
        choices,
        shown=shown,
        notes=(close, *notes_of(shown)),
        about=stamp((*PACKAGES, "tokenizers", "torch")),
    )


if __name__ == "__main__":
    main()
