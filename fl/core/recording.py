"""Who keeps what a federation's rounds leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.core.parameters import Parameters


class Recording(Protocol):
    """Keeps updates and models, perhaps later; arrays that it is given are not changed any more."""

    def update(
        self,
        round_number: int,
        device_id: str,
        parameters: Parameters,
        num_examples: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Keep what a device's training has come to: the model, not the change."""
        ...

    def model(
        self, round_number: int, parameters: Parameters, made_from: Mapping[str, float]
    ) -> None:
        """Keep a round's model, and the shares that devices' updates have in it."""
        ...
