"""A simulated program to look at: trace-viewer JSON, and a Gantt chart in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hocket.hwmodels.program import Operation, Unit

if TYPE_CHECKING:
    from hocket.hwmodels.simulate import Timeline

LETTERS = {
    Operation.LOAD: "l",
    Operation.STORE: "s",
    Operation.SCORES: "C",
    Operation.SOFTMAX: "P",
    Operation.OUTPUT: "O",
}
"""One letter an operation, after the paper's symbols: C scores, P probabilities, O output."""

MIN_SHARE = 0.05
"""Share of a column's time from which on its operation is shown; short softmax is still seen."""

_UNIT_ORDER = (Unit.MATRIX, Unit.VECTOR, Unit.DMA)


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline in the trace-viewer's JSON form (Perfetto, chrome://tracing).

    One process a core, one thread a unit; times in microseconds at the machine's clock.
    """
    to_microseconds = 1e6 / timeline.machine.clock_hz
    tasks = timeline.program.schedule.tasks
    events: list[dict[str, Any]] = []
    for core in sorted({task.core for task in tasks}):
        events.append(_name_event("process_name", core, 0, f"core {core}"))
        events.extend(
            _name_event("thread_name", core, thread, f"{unit} unit")
            for thread, unit in enumerate(_UNIT_ORDER)
        )
    for task, span in zip(tasks, timeline.spans, strict=True):
        events.append(
            {
                "name": str(task.operation),
                "cat": str(task.unit),
                "ph": "X",
                "pid": task.core,
                "tid": _UNIT_ORDER.index(task.unit),
                "ts": span.start * to_microseconds,
                "dur": (span.end - span.start) * to_microseconds,
                "args": {
                    "task": span.task,
                    "what": str(task),
                    "start_cycle": span.start,
                    "idle_cycles_before": span.idle_cycles,
                    "stall": str(span.stall),
                },
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def text_gantt(timeline: Timeline, width: int = 72, end_cycle: float | None = None) -> str:
    """Return the timeline as text, one line a unit, one column a slice of time.

    A column shows the operation that fills most of it, ``.`` where the unit does next to nothing::

        core 0 matrix CCCCOOOCCCCOOO
               vector ....PPP.....PPP
               dma    lll..l..s.l...

    Args:
        timeline: What to show.
        width: Columns.
        end_cycle: Where to cut; the whole timeline by default.
    """
    end = end_cycle or timeline.cycles
    if not end:
        return "(no tasks)"
    tasks = timeline.program.schedule.tasks
    lines = []
    for core in sorted({task.core for task in tasks}):
        for unit in _UNIT_ORDER:
            shares: list[dict[str, float]] = [{} for _ in range(width)]
            for task, span in zip(tasks, timeline.spans, strict=True):
                if task.core == core and task.unit is unit:
                    letter = LETTERS[task.operation]
                    _fill(shares, letter, span.start / end * width, span.end / end * width)
            title = f"core {core}" if unit is _UNIT_ORDER[0] else ""
            lines.append(f"{title:<8}{unit!s:<7}{''.join(map(_column_letter, shares))}")
    lines.append(f"{'':<15}0{f'{end:,.0f} cycles':>{width - 1}}")
    lines.append(f"{'':<15}C scores  P softmax  O output  l load  s store  . idle")
    return "\n".join(lines)


def _name_event(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _fill(shares: list[dict[str, float]], letter: str, start: float, end: float) -> None:
    for column in range(int(start), min(int(end) + 1, len(shares))):
        share = min(end, column + 1) - max(start, column)
        if share > 0:
            shares[column][letter] = shares[column].get(letter, 0.0) + share


def _column_letter(shares: dict[str, float]) -> str:
    if sum(shares.values()) < MIN_SHARE:
        return "."
    return max(shares, key=lambda letter: shares[letter])
