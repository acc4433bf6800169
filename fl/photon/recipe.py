"""How Photon trains: the recipe's numbers, and what server and clients agree on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.server_optimizer import Adaptive, ServerOptimizer, Sgd
from hocket.fl.photon.compression import FLOAT32, SCHEMES
from hocket.fl.photon.guard import Deadline, Guard
from hocket.fl.photon.privacy import CLIENTS, Privacy
from hocket.fl.photon.wall_time import PARAMETER_SERVER, RING, TOPOLOGIES

if TYPE_CHECKING:
    from hocket.fl.photon.lattice import Secure

SERVER_OPTIMIZERS: dict[str, ServerOptimizer] = {
    # Photon's own: the plain mean.
    "fedavg": Sgd(),
    # DiLoCo (Douillard et al. 2023).
    "diloco": Sgd(0.7, 0.9, nesterov=True),
    # FedMom (Huo et al. 2020, algorithm 2) is written otherwise, and is the same.
    "fedmom": Sgd(1.0, 0.9, nesterov=True),
    "fedadam": Adaptive("adam", 0.01),
    "fedyogi": Adaptive("yogi", 0.01),
}
"""Servers' optimizers by name, with the settings of those who made them."""


def local_training(
    local_batch: int,
    global_batch: int,
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    final_share: float = 0.1,
    weight_decay: float = 0.0,
    *,
    keep_optimizer: bool = False,
    precision: str = "float32",
) -> LocalTraining:
    """Return how a client trains, from what suits one machine with a large batch.

    The learning rate is that of the global batch; warm-up and decay last as many more steps as the
    client's batch is smaller (Photon's "small batch, extremely high learning rate").

    Args:
        local_batch: Sequences of a client's step.
        global_batch: Sequences of the step that the learning rate is of.
        learning_rate: The highest.
        warmup_steps, decay_steps: Steps of the global batch.
        final_share: Of the learning rate, at the end.
        weight_decay: Of AdamW.
        keep_optimizer: Whether clients keep its moments, twice their model in float32, from round
            to round. If not, any client can take any other's place.
        precision: Of products, ``float32`` or ``bf16``.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 1 <= local_batch <= global_batch:
        raise ConfigError(
            f"want 1 <= local_batch <= global_batch, got {local_batch}, {global_batch}"
        )
    stretch = global_batch / local_batch
    return LocalTraining(
        batch_size=local_batch,
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_norm=1.0,
        beta_1=0.9,
        beta_2=0.95,
        warmup_steps=round(warmup_steps * stretch),
        decay_steps=round(decay_steps * stretch),
        final_share=final_share,
        keep_optimizer=keep_optimizer,
        precision=precision,
    )


@dataclass(frozen=True)
class Recipe:
    """A whole run's.

    Attributes:
        training: Of a client, in a round; where the schedule stands, the server says.
        local_steps: Steps of a round (tau).
        context: Tokens of a sequence that are predicted.
        clients_per_round: Clients drawn for a round; 0 for all.
        quorum: Share of them that must answer.
        server_optimizer: What the server makes of the mean change.
        scheme: How updates are sent, one of ``compression.SCHEMES``.
        guard: Which updates are believed.
        deadline: How long a round waits.
        topology: Who sends to whom, one of ``wall_time.TOPOLOGIES``: what is sent is counted by it.
        secure: How the server learns sums alone; None if it sees every update. Updates are then
            not sent in the scheme, and the guard has nothing to look at.
        privacy: How much of a client may show; None for all. Every client then counts as one,
            whatever it has trained on, and its length is cut instead of guarded.

    Raises:
        ConfigError: A number is out of range, or there is no such scheme.
    """

    training: LocalTraining
    local_steps: int
    context: int
    clients_per_round: int = 0
    quorum: float = 0.5
    server_optimizer: ServerOptimizer = field(default_factory=Sgd)
    scheme: str = FLOAT32
    guard: Guard = field(default_factory=Guard)
    deadline: Deadline = field(default_factory=Deadline)
    topology: str = PARAMETER_SERVER
    secure: Secure | None = None
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        for name in ("local_steps", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.clients_per_round < 0:
            raise ConfigError(f"clients_per_round must be 0 or more, got {self.clients_per_round}")
        if not 0 <= self.quorum <= 1:
            raise ConfigError(f"quorum must be from 0 to 1, got {self.quorum}")
        if self.scheme not in SCHEMES:
            raise ConfigError(f"scheme must be one of {SCHEMES}, got {self.scheme!r}")
        if self.training.epochs != 1 or self.training.max_steps:
            raise ConfigError("epochs and max_steps are not for Photon; it has local_steps")

        if self.topology not in TOPOLOGIES:
            raise ConfigError(f"topology must be one of {TOPOLOGIES}, got {self.topology!r}")
        is_open = self.secure is None and self.privacy is None
        if self.topology != PARAMETER_SERVER and not is_open:
            raise ConfigError("secret sums and noise want a server")
        if self.topology == RING and self.scheme != FLOAT32:
            raise ConfigError(f"around a ring go sums, whose scheme is {FLOAT32}")
        if self.privacy is not None and self.privacy.noise_by == CLIENTS and self.secure is None:
            raise ConfigError(
                "noise by clients hides their sum, not each of them: the sums must be secret"
            )

    @property
    def sequences(self) -> int:
        """Sequences that a client trains on in a round."""
        return self.local_steps * self.training.batch_size

    @property
    def tokens(self) -> int:
        """Tokens that a client trains on in a round."""
        return self.sequences * self.context
