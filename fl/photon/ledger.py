"""What a server knows of its clients: how far each has read, and what it has sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_REMEMBERED = 64


@dataclass(frozen=True)
class Account:
    """One client's.

    Attributes:
        cursor: Sequences of its data that are in the model. What it trained on in a round that
            failed is not, and is read again.
        last_round: The last round whose update is in the model; what the client keeps from round
            to round is of this one. 0 for none.
        tokens: That it has trained on, of those in the model.
        num_updates: That are in the model, of one round each.
    """

    cursor: int = 0
    last_round: int = 0
    tokens: int = 0
    num_updates: int = 0


@dataclass(frozen=True)
class Ledger:
    """All that a server keeps beside arrays.

    Attributes:
        steps: Local steps of one client after the other round: what learning rates go by.
        accounts: By device.
        norms: Of the last changes that were believed, by the sum of their learning rates.
        arrivals: Seconds that the last replies took.
        uploaded_bytes, downloaded_bytes: Of all rounds, on the wire.
    """

    steps: int = 0
    accounts: Mapping[str, Account] = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    arrivals: tuple[float, ...] = ()
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0

    @property
    def tokens(self) -> int:
        """That are in the model, of all clients."""
        return sum(account.tokens for account in self.accounts.values())

    def account(self, device_id: str) -> Account:
        """Return a client's account, a new one if it has none."""
        return self.accounts.get(device_id, Account())

    def after_round(
        self,
        accounts: Mapping[str, Account],
        steps: int,
        norms: tuple[float, ...],
        arrivals: tuple[float, ...],
    ) -> Ledger:
        """Return it after a round that counts.

        Args:
            accounts: Of those whose updates are in the model.
            steps: Of each client.
            norms, arrivals: Of their updates.
        """
        return replace(
            self,
            steps=self.steps + steps,
            accounts={**self.accounts, **accounts},
            norms=(*self.norms, *norms)[-_REMEMBERED:],
            arrivals=(*self.arrivals, *arrivals)[-_REMEMBERED:],
        )

    def to_array(self) -> NDArray[np.uint8]:
        """Return it as bytes of JSON."""
        text = json.dumps(asdict(self), sort_keys=True)
        return np.frombuffer(text.encode(), np.uint8)

    @classmethod
    def from_array(cls, content: NDArray[np.uint8]) -> Ledger:
        """Return what ``to_array`` made bytes of."""
        fields: dict[str, Any] = json.loads(content.tobytes())
        accounts = {name: Account(**each) for name, each in fields["accounts"].items()}
        norms, arrivals = tuple(fields["norms"]), tuple(fields["arrivals"])
        return cls(**{**fields, "accounts": accounts, "norms": norms, "arrivals": arrivals})
