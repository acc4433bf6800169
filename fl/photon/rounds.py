"""A round of Photon as its replies come in, and what is told of it when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.photon.guard import norm_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.types import ClientTask
    from hocket.fl.photon.aggregation import StreamingMean
    from hocket.fl.photon.ledger import Account, Ledger
    from hocket.fl.photon.secure_round import SecureRound


@dataclass
class Round:
    """A round as its replies come in.

    Attributes:
        number: From 1.
        started: When clients were asked to train.
        learning: Sum of the learning rates of a client's steps.
        tasks: By device, those that have not been answered.
        mean: Of what was believed.
        secure: In its place where sums are secret.
        direction: Mean change of the round before; empty if there is none.
        ledger: Before the round.
        accounts, norms, arrivals, metrics, cosines: By device, of what was believed.
        failures: What was not, a sentence each.
        exchanges: Seconds that replies took beyond the work of their clients.
        uploaded_bytes: On the wire, what was refused included.
        recorded: Tokens of each update that is kept, by device.
    """

    number: int
    started: float
    learning: float
    tasks: dict[str, ClientTask]
    mean: StreamingMean
    direction: Mapping[str, NDArray[Any]]
    ledger: Ledger
    secure: SecureRound | None = None
    accounts: dict[str, Account] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    arrivals: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    exchanges: list[float] = field(default_factory=list)
    uploaded_bytes: int = 0
    recorded: dict[str, int] = field(default_factory=dict)


def train_metrics(
    current: Round, after: Ledger, change: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Return the numbers of a round.

    Args:
        current: The round.
        after: The ledger after it.
        change: The mean change; empty if the round does not count.
    """
    names = sorted(current.metrics)
    found = {
        metric: float(np.mean([current.metrics[name][metric] for name in names]))
        for metric in sorted({each for name in names for each in current.metrics[name]})
        if all(metric in current.metrics[name] for name in names)
    }
    found |= {
        "learning_rate_sum": current.learning,
        "steps": float(after.steps),
        "tokens": float(after.tokens),
        "uploaded_bytes": float(after.uploaded_bytes),
        "downloaded_bytes": float(after.downloaded_bytes),
    }
    if change:
        found["mean_change_norm"] = norm_of(change)
    if change and current.norms:
        found["change_norm"] = float(
            np.mean([current.norms[name] for name in names]) * current.learning
        )
    if current.cosines:
        found["cosine_with_last"] = float(
            np.mean([current.cosines[n] for n in sorted(current.cosines)])
        )
    return found
