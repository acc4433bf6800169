"""What really happened in a run: each step with its time, and that as a trace-viewer file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class StepTime:
    """One step of one run.

    Attributes:
        name: Of the step.
        kind: ``host`` or ``attention``.
        start_seconds: When it began, by ``time.perf_counter``.
        seconds: How long it took.
    """

    name: str
    kind: str
    start_seconds: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """One run, step by step."""

    steps: tuple[StepTime, ...]

    @property
    def seconds(self) -> float:
        """From the first step's start to the last one's end."""
        if not self.steps:
            return 0.0
        last = self.steps[-1]
        return last.start_seconds + last.seconds - self.steps[0].start_seconds

    def seconds_of(self, kind: str) -> float:
        """Return the time of all steps of a kind together."""
        return sum(step.seconds for step in self.steps if step.kind == kind)

    def __str__(self) -> str:
        return (
            f"{self.seconds * 1e3:.3f} ms: {self.seconds_of('attention') * 1e3:.3f} ms attention, "
            f"{self.seconds_of('host') * 1e3:.3f} ms host"
        )


def write_trace(profiles: Iterable[Profile], path: Path) -> None:
    """Write runs as trace-viewer JSON (Perfetto, chrome://tracing), times in microseconds."""
    events: list[dict[str, Any]] = [
        {
            "name": step.name,
            "cat": step.kind,
            "ph": "X",
            "pid": os.getpid(),
            "tid": 0,
            "ts": step.start_seconds * 1e6,
            "dur": step.seconds * 1e6,
            "args": {"run": number},
        }
        for number, profile in enumerate(profiles)
        for step in profile.steps
    ]
    with atomic_file(path) as file:
        file.write(json.dumps({"traceEvents": events}).encode())
