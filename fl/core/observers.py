"""Who is told of what a federation does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hocket.runtime.files import errors_naming

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.fl.core.types import ClientTask, Reply, RoundReport


class Observer(Protocol):
    """Is told of rounds as they go. It must not raise for what is not its own fault."""

    def started(self, round_number: int, tasks: Sequence[ClientTask]) -> None:
        """Tasks of a round, or of its evaluation, are on their way."""
        ...

    def replied(self, reply: Reply) -> None:
        """A device has answered, or failed to."""
        ...

    def finished(self, report: RoundReport) -> None:
        """A round is over, and what it came to is kept."""
        ...


class Silent:
    """Tells nobody; what an observer of few events begins with."""

    def started(self, round_number: int, tasks: Sequence[ClientTask]) -> None:
        """Do nothing."""

    def replied(self, reply: Reply) -> None:
        """Do nothing."""

    def finished(self, report: RoundReport) -> None:
        """Do nothing."""


class JsonLines(Silent):
    """Writes a line of JSON for each round.

    Args:
        path: Of the file, which is written anew.
        reports: Rounds that are over already, of a federation that is resumed.
    """

    def __init__(self, path: str | os.PathLike[str], reports: Sequence[RoundReport] = ()) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("", encoding="utf-8")
        for report in reports:
            self.finished(report)

    def finished(self, report: RoundReport) -> None:
        """Write the report."""
        with errors_naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
