"""Curves for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from hocket.fl.core.observers import Silent

if TYPE_CHECKING:
    import os

    from hocket.fl.core.types import RoundReport


class TensorBoard(Silent):
    """Writes what each round came to as scalars, one step a round.

    Args:
        folder: Where event files go; those of an earlier run stay there.
        last_round: Rounds that are over already, of a federation that is resumed: what an earlier
            process wrote of later ones is taken back.
    """

    def __init__(self, folder: str | os.PathLike[str], last_round: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=last_round + 1)

    def finished(self, report: RoundReport) -> None:
        """Write the scalars of a round."""
        scalars = {f"train/{name}": value for name, value in report.train_metrics.items()}
        scalars |= {f"evaluate/{name}": value for name, value in report.evaluate_metrics.items()}
        scalars |= {
            "round/seconds": report.seconds,
            "round/updates": float(report.num_updates),
            "round/failures": float(report.num_failures),
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, report.round)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
