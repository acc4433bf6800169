"""Differential privacy of clients: updates are clipped, noise is added, and epsilon is told.

What is protected is a client with all of its data: the model says little more of it than it would
if its updates had been nothing. Either the server adds the noise, and is trusted to do so and with
what it sees; or each client adds a part of it before its numbers are masked, and the server sees
the sum alone, which has noise enough as long as so many of the clients are honest as must answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.guard import norm_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SERVER, CLIENTS = "server", "clients"
"""Who may add the noise."""

SMALLEST_SCALE = 0.5
"""Of a client's noise on a lattice, in steps of it; below, sums of noise are not what they seem."""


@dataclass(frozen=True)
class Privacy:
    """How much of a client may show.

    Attributes:
        clip_norm: Longest change of a client, in the norm of all arrays together.
        noise_multiplier: Standard deviation of the noise in the sum of a round's changes, by
            ``clip_norm``.
        delta: Probability with which more may show than epsilon says; well below one by the number
            of clients there are.
        noise_by: ``server`` or ``clients``.

    Raises:
        ConfigError: A number is out of range.
    """

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5
    noise_by: str = SERVER

    def __post_init__(self) -> None:
        for name in ("clip_norm", "noise_multiplier"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 < self.delta < 1:
            raise ConfigError(f"delta must be between 0 and 1, got {self.delta}")
        if self.noise_by not in (SERVER, CLIENTS):
            raise ConfigError(f"noise_by must be {SERVER} or {CLIENTS}, got {self.noise_by!r}")

    @property
    def scale(self) -> float:
        """Standard deviation of the noise in the sum of a round's changes."""
        return self.clip_norm * self.noise_multiplier

    def epsilon(self, num_rounds: int, multiplier: float | None = None) -> float:
        """Return epsilon for a client that has taken part in so many rounds.

        By Opacus' accountant of Renyi differential privacy (Mironov 2017). That a round asks only
        some of the clients makes it no smaller here: who is asked follows from the run's seed,
        which is no secret.

        Args:
            num_rounds: Whose sums hold an update of the client.
            multiplier: Of the noise that there really is, if it is not ``noise_multiplier``.
        """
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis import rdp

        if num_rounds < 1:
            return 0.0
        orders = RDPAccountant.DEFAULT_ALPHAS
        spent = rdp.compute_rdp(
            q=1.0,
            noise_multiplier=self.noise_multiplier if multiplier is None else multiplier,
            steps=num_rounds,
            orders=orders,
        )
        return float(rdp.get_privacy_spent(orders=orders, rdp=spent, delta=self.delta)[0])


def clipped(change: Mapping[str, NDArray[Any]], norm: float) -> dict[str, NDArray[Any]]:
    """Return a change, made shorter if it is longer than a norm."""
    found = norm_of(change)
    # A little shorter, since products of float32 are rounded.
    factor = 1.0 if found <= norm else norm / found * (1 - 2.0**-20)
    return {name: array * array.dtype.type(factor) for name, array in change.items()}


def multiplier_of_sum(
    sensitivity: float, client_scale: float, num_clients: int, num_numbers: int
) -> float:
    """Return the multiplier of a Gaussian's noise that hides as much as clients' noise together.

    The sum of discrete Gaussians is nearly one (Kairouz, Liu and Steinke 2021, theorem 1): it hides
    a client as a Gaussian does whose multiplier is one by their epsilon.

    Args:
        sensitivity: Longest change of a client, in steps of the lattice.
        client_scale: Standard deviation of each client's noise, in steps.
        num_clients: That have added noise.
        num_numbers: In a change.

    Raises:
        ConfigError: The noise is too coarse for the lattice.
    """
    if client_scale < SMALLEST_SCALE:
        raise ConfigError(
            f"a client's noise is {client_scale:.2g} steps of the lattice, want {SMALLEST_SCALE} "
            "or more: take more bits or more noise"
        )
    excess = 10 * math.fsum(
        math.exp(-2 * (math.pi * client_scale) ** 2 * k / (k + 1)) for k in range(1, num_clients)
    )
    gaussian = sensitivity / (client_scale * math.sqrt(num_clients))
    return 1 / (gaussian + excess * math.sqrt(num_numbers))
