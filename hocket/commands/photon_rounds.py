"""Rounds of Photon in a line each, as ``hocket photon train`` tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.commands.terminal import log_console
from hocket.fl.core.observers import Silent

if TYPE_CHECKING:
    from hocket.fl.core.types import RoundReport


class Teller(Silent):
    """Says on stderr how rounds go, when they are over."""

    def __init__(self, num_rounds: int) -> None:
        self._num_rounds = num_rounds
        self._console = log_console()
        self._before: RoundReport | None = None

    def finished(self, report: RoundReport) -> None:
        """Say what came of it."""
        self._console.print(told(report, self._num_rounds, self._before), soft_wrap=True)
        for sentence in report.failures:
            self._console.print(f"  {sentence}", style="dim", soft_wrap=True)
        self._before = report


def told(report: RoundReport, num_rounds: int, before: RoundReport | None) -> str:
    """Return a round in a line.

    Args:
        report: Of the round.
        num_rounds: In all.
        before: Of the round before, if this process has seen it.
    """
    found = {**report.train_metrics, **report.evaluate_metrics}
    parts = [
        f"round {report.round}/{num_rounds}",
        f"{report.num_updates}/{report.num_tasks} clients",
    ]
    if "loss" in found:
        parts.append(f"loss {found['loss']:.3f}")
    if "server_perplexity" in found:
        parts.append(f"held-out perplexity {found['server_perplexity']:.2f}")
    if before is not None or report.round == 1:
        new = found["tokens"] - (before.train_metrics["tokens"] if before else 0)
        parts.append(f"{new / report.seconds:,.0f} tokens/s")
    if report.exchange_seconds:
        parts.append(f"{report.exchange_seconds / report.seconds:.0%} communication")
    if "epsilon" in found:
        parts.append(f"epsilon {found['epsilon']:.2f} at delta {found['delta']:.0e}")
    return ", ".join(parts)
