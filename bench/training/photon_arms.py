"""Ways to train one decoder: on one machine, by Photon's clients, by DiLoCo's; one run of each."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Plan
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.server_optimizer import Sgd
from hocket.fl.core.store import MemoryStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.guard import Deadline
from hocket.fl.photon.recipe import SERVER_OPTIMIZERS, Recipe
from hocket.fl.photon.server import PhotonServer, ledger_of
from hocket.fl.photon.shards import ShardClients, TokenShards
from hocket.fl.photon.sizes import SIZES, GptSize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.core.backend import Backend
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.server_optimizer import ServerOptimizer


@dataclass(frozen=True)
class Study:
    """What all arms have in common.

    Attributes:
        size: Of the model.
        clients: Of a federated arm; the centralised batch is that of all of them.
        local_batch: Sequences of a client's step.
        local_steps: Steps of a client between exchanges (tau).
        rounds: Of a federated arm. The centralised one takes as many steps, of larger batches.
        evaluate_every: Rounds from one evaluation to the next.
        held_out: Sequences of each source that are evaluated.
    """

    size: GptSize
    clients: int
    local_batch: int
    local_steps: int
    rounds: int
    evaluate_every: int
    held_out: int


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: For the table.
        is_federated: Whether clients average once a round; else one machine takes the steps.
        server: Name of the server's optimizer.
        rates: Learning rates of the steps to try.
        outer_rates: Learning rates of the server's to try; 0 is the optimizer's own.
        by_source: Whether each client has text of its own kind.
        scheme: How updates are sent.
        keep_optimizer: Whether clients keep Adam's moments.
        batch_factor: Sequences of a step, times the usual; as much as steps become fewer.
        rounds_factor: Rounds, times the usual.
        like: The arm whose best rates it takes over; empty to try its own.
        num_seeds: Runs with the best rates, each with another seed.
    """

    name: str
    is_federated: bool = True
    server: str = "fedavg"
    rates: tuple[float, ...] = ()
    outer_rates: tuple[float, ...] = (0.0,)
    by_source: bool = False
    scheme: str = "float32"
    keep_optimizer: bool = True
    batch_factor: float = 1.0
    rounds_factor: float = 1.0
    like: str = ""
    num_seeds: int = 1

    def server_optimizer(self, outer_rate: float) -> ServerOptimizer:
        """Return what the server steps with, at a rate of 0 its own."""
        found = SERVER_OPTIMIZERS[self.server]
        if not outer_rate or not isinstance(found, Sgd):
            return found
        return Sgd(outer_rate, found.momentum, nesterov=found.nesterov)


CENTRALISED, PHOTON, DILOCO = "centralised", "Photon", "DiLoCo"
RATES, OUTER_RATES = (4e-3, 8e-3, 2e-3), (0.7, 0.4)
"""What is tried, the likeliest first: of steps, and of DiLoCo's server."""


@dataclass(frozen=True)
class Level:
    """How much is measured.

    Attributes:
        study: What all arms have in common.
        arms: Which there are.
    """

    study: Study
    arms: tuple[Arm, ...]


def main_arms_of(rates: tuple[float, ...], outer_rates: tuple[float, ...], seeds: int) -> list[Arm]:
    """Return the arms that everything is compared with.

    Args:
        rates: Learning rates to try for those that are swept.
        outer_rates: Of DiLoCo's server to try, each with the first two of the rates.
        seeds: Runs of each with the best rates.
    """
    return [
        Arm(CENTRALISED, is_federated=False, rates=rates, num_seeds=seeds),
        Arm(PHOTON, rates=rates, num_seeds=seeds),
        Arm(DILOCO, server="diloco", rates=rates[:2], outer_rates=outer_rates, num_seeds=seeds),
        # What is different in the link alone takes over the rate; so do parts of a run.
        Arm("Photon int8", scheme="int8", like=PHOTON, num_seeds=seeds),
    ]


MORE_ARMS = (
    Arm("centralised, 1/2", is_federated=False, rounds_factor=1 / 2, like=CENTRALISED),
    Arm("centralised, 1/8", is_federated=False, rounds_factor=1 / 8, like=CENTRALISED),
    # As far as a client of Photon comes by its own text, without the others'.
    Arm("one client alone", False, rounds_factor=1 / 4, batch_factor=1 / 4, like=PHOTON),
    Arm("Photon by source", by_source=True, like=PHOTON),
    Arm("Photon int4", scheme="int4", like=PHOTON),
    Arm("Photon bf16", scheme="bf16", like=PHOTON),
    Arm("Photon stateless", keep_optimizer=False, like=PHOTON),
    Arm("centralised, small batch", False, batch_factor=1 / 4, like=CENTRALISED),
)
"""What a full study has beside."""


_TINY = GptSize(1, 32, 2, vocabulary=257, context=32)
_SMALL = GptSize(2, 64, 2, vocabulary=512, context=64)
_STUDY = Study(_SMALL, 4, 8, 64, 100, 5, 128)
"""13 million tokens, a hundred for each parameter: with few tokens the arms differ by how far they
have come, and not by where they go."""
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
    # Rows of the full form are good for the short one, and the other way round.
    "short": Level(_STUDY, tuple(main_arms_of(RATES[:1], OUTER_RATES[:1], 1))),
    "full": Level(_STUDY, (*main_arms_of(RATES, OUTER_RATES, 3), *MORE_ARMS)),
    "gpu": Level(
        Study(SIZES["25M"], 4, 16, 64, 60, 4, 128),
        (*main_arms_of((1e-3, 5e-4, 2e-3), OUTER_RATES, 3), *MORE_ARMS),
    ),
}


@dataclass(frozen=True, order=True)
class Job:
    """One run.

    Attributes:
        arm: Name of its arm.
        rate: Learning rate of the steps, at its highest.
        outer_rate: The server's; 0 for its optimizer's own.
        seed: Of the weights, the order of the text, and all else that is random.
    """

    arm: str
    rate: float
    outer_rate: float
    seed: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """Return the job that a row is of."""
        return cls(row["arm"], row["learning_rate"], row["outer_rate"], row["seed"])


@dataclass
class _Curve:
    """Evaluates on every source's held-out text, and keeps what it found."""

    backend: Backend
    texts: ShardClients
    most: int
    losses: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __call__(self, parameters: Parameters) -> dict[str, float]:
        began = time.process_time()
        self.backend.load_parameters(parameters)
        found = [
            self.backend.evaluate(self.texts.held_out(source, self.most)).metrics["loss"]
            for source in self.texts.shards.sources
        ]
        self.losses.append(float(np.mean(found)))
        self.cpu_seconds += time.process_time() - began
        return {"loss": self.losses[-1]}


@dataclass(frozen=True)
class _Made:
    """A factory of a client that is there already."""

    client: PhotonClient

    def device_ids(self) -> list[str]:
        return self.client.sequences.device_ids()

    def __call__(self) -> PhotonClient:
        return self.client


def training_of(study: Study, arm: Arm, rate: float) -> LocalTraining:
    """Return how an arm's steps are taken: AdamW, a short warm-up, a cosine that is completed."""
    num_steps = round(study.rounds * arm.rounds_factor) * local_steps_of(study, arm)
    batch = study.local_batch if arm.is_federated else study.local_batch * study.clients
    return LocalTraining(
        batch_size=round(batch * arm.batch_factor),
        optimizer="adamw",
        learning_rate=rate,
        clip_norm=1.0,
        beta_2=0.95,
        warmup_steps=max(1, num_steps // 20),
        decay_steps=num_steps,
        final_share=0.1,
        keep_optimizer=arm.keep_optimizer,
    )


def local_steps_of(study: Study, arm: Arm) -> int:
    """Return the steps of a round of an arm, in which all have as many tokens."""
    return round(study.local_steps / arm.batch_factor)


def train(study: Study, arm: Arm, job: Job, backend: Backend, texts: TokenShards) -> dict[str, Any]:
    """Train an arm to the end of its schedule and return its row.

    Args:
        study, arm, job: What is done.
        backend: Of the model; it begins anew.
        texts: That it is trained and measured on.
    """
    clients = ShardClients(
        texts,
        study.size.context,
        study.clients if arm.is_federated else 1,
        arm.by_source,
        job.seed,
    )
    start = {
        name: each.detach().numpy() for name, each in Gpt(study.size, job.seed).named_parameters()
    }
    store, curve = MemoryStore(), _Curve(backend, clients, study.held_out)
    rounds = round(study.rounds * arm.rounds_factor)
    server = PhotonServer(
        plan=Plan("bench", rounds, job.seed, evaluate_every=study.evaluate_every),
        recipe=Recipe(
            training_of(study, arm, job.rate),
            local_steps_of(study, arm),
            study.size.context,
            server_optimizer=arm.server_optimizer(job.outer_rate),
            scheme=arm.scheme,
            # Other work on the machine is no reason to leave a client's part out.
            deadline=Deadline(least_seconds=math.inf),
        ),
        engine=InProcessEngine(_Made(PhotonClient(backend, clients, store)), WallClock()),
        store=store,
        clock=WallClock(),
        evaluate=curve,
    )
    began = time.process_time()
    progress = server.run(server.begin(start))
    cpu_seconds = time.process_time() - began - curve.cpu_seconds
    ledger = ledger_of(progress.state)
    sent = ledger.uploaded_bytes + ledger.downloaded_bytes
    if not arm.is_federated:
        # Spread over as many machines, which send each gradient up and get the mean down.
        sent = 2 * study.clients * ledger.steps * num_bytes(start)
    return {
        "arm": job.arm,
        "learning_rate": job.rate,
        "outer_rate": job.outer_rate,
        "seed": job.seed,
        "tokens": ledger.tokens,
        "steps": ledger.steps,
        "exchanges": rounds if arm.is_federated else ledger.steps,
        "sent_bytes": sent,
        "loss": curve.losses[-1],
        "curve": curve.losses,
        "cpu_seconds": cpu_seconds,
        "refused": sum(each.num_failures for each in progress.reports),
    }
