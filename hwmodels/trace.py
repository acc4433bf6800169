"""A simulated program to look at: trace-viewer JSON, memory in use, and a Gantt chart in text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels import columns as col
from hocket.hwmodels.tasks import Operation, Unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.simulate import Timeline

    Floats = NDArray[np.float64]

LETTERS = {
    Operation.LOAD: "l",
    Operation.STORE: "s",
    Operation.SCORES: "C",
    Operation.SOFTMAX: "P",
    Operation.EXPONENTIALS: "P",
    Operation.OUTPUT: "O",
    Operation.RESCALE: "r",
    Operation.MERGE: "m",
    Operation.NORMALIZE: "n",
}
"""One letter an operation, after the paper's symbols: C scores, P probabilities, O output."""

LEGEND = {
    "C": "scores",
    "P": "softmax",
    "O": "output",
    "r": "rescale",
    "m": "merge",
    "n": "normalize",
    "l": "load",
    "s": "store",
}

MIN_SHARE = 0.05
"""Share of a column's time from which on its operation is shown; short softmax is still seen."""

COLUMNS_PER_TASK = 4
"""Columns of a text chart that a task of the matrix unit should have on average."""

ROWS: tuple[tuple[str, tuple[Unit, ...]], ...] = (
    ("matrix", (Unit.MATRIX,)),
    ("vector", (Unit.VECTOR,)),
    ("dma", (Unit.LOAD, Unit.STORE)),
)
"""Rows of a chart of one core: its two voices, and what is moved for it."""

THREADS = tuple(f"{unit} {'queue' if unit.is_transfer else 'unit'}" for unit in Unit)

_BLOCK_COLUMNS = (col.READ, col.SECOND_READ, col.WRITE, col.SECOND_WRITE)


def on_chip_usage(timeline: Timeline) -> tuple[Floats, NDArray[np.int64]]:
    """Return when the bytes of on-chip memory in use change, and what they are from then on.

    A buffer is in use from the start of the first task that touches it to the end of the last one.
    The first time is 0 and the last number 0; a program may reserve more than it uses at a time.
    """
    program = timeline.program
    rows, places = program.schedule.table.rows, program.places
    first = np.full(len(places), np.inf)
    last = np.zeros(len(places))
    for column in _BLOCK_COLUMNS:
        tasks = np.flatnonzero(rows[:, column] != col.NOTHING)
        buffers = rows[tasks, column]
        np.minimum.at(first, buffers, timeline.starts[tasks])
        np.maximum.at(last, buffers, timeline.ends[tasks])
    used = np.flatnonzero(np.isfinite(first))
    sizes = places[used, 1]
    times = np.concatenate([[0.0], first[used], last[used]])
    changes = np.concatenate([np.zeros(1, np.int64), sizes, -sizes])
    moments, inverse = np.unique(times, return_inverse=True)
    total = np.zeros(len(moments), np.int64)
    np.add.at(total, inverse, changes)
    return moments, np.cumsum(total)


def block_numbers(timeline: Timeline) -> NDArray[np.int64]:
    """Return which row block's scores each task works on, counted from 0 on each core.

    With an online softmax these are tiles of row blocks. -1 for tasks that touch no scores, and for
    scores that came from DRAM.
    """
    schedule = timeline.program.schedule
    rows = schedule.table.rows
    operations = rows[:, col.OPERATION]
    buffers = np.full(len(rows), col.NOTHING)
    is_softmax = (operations == col.SOFTMAX) | (operations == col.EXPONENTIALS)
    writes = is_softmax | (operations == col.SCORES)
    buffers[writes] = rows[writes, col.WRITE]
    reads = operations == col.OUTPUT
    buffers[reads] = rows[reads, col.READ]
    number_of = np.full(len(schedule.buffers) + 1, -1)
    for core in np.unique(rows[:, col.CORE]):
        made = rows[(operations == col.SCORES) & (rows[:, col.CORE] == core), col.WRITE]
        found, first = np.unique(made, return_index=True)
        number_of[found[np.argsort(first)]] = np.arange(len(found))
    number_of[col.NOTHING] = -1
    numbers: NDArray[np.int64] = number_of[buffers]
    return numbers


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline in the trace-viewer's JSON form (Perfetto, chrome://tracing).

    One process a core, one thread a unit, and a process with a counter of the on-chip memory in
    use; times in microseconds at the machine's clock.
    """
    to_microseconds = 1e6 / timeline.machine.clock_hz
    tasks = timeline.program.schedule.tasks
    units = tuple(Unit)
    events: list[dict[str, Any]] = []
    cores = sorted({task.core for task in tasks})
    for core in cores:
        events.append(_name_event("process_name", core, 0, f"core {core}"))
        events.extend(
            _name_event("thread_name", core, thread, title) for thread, title in enumerate(THREADS)
        )
    for task, span in zip(tasks, timeline.spans, strict=True):
        events.append(
            {
                "name": str(task.operation),
                "cat": str(task.unit),
                "ph": "X",
                "pid": task.core,
                "tid": units.index(task.unit),
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
    memory = max(cores, default=-1) + 1
    name = timeline.machine.on_chip_memory.name
    events.append(_name_event("process_name", memory, 0, f"{name} (on-chip memory)"))
    moments, counts = on_chip_usage(timeline)
    events.extend(
        {
            "name": "on-chip bytes in use",
            "ph": "C",
            "pid": memory,
            "ts": moment * to_microseconds,
            "args": {"bytes": count},
        }
        for moment, count in zip(moments.tolist(), counts.tolist(), strict=True)
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
    table = timeline.program.schedule.table
    operations, cores = table.rows[:, col.OPERATION], table.rows[:, col.CORE]
    units = table.units
    lines = []
    for core in np.unique(cores).tolist():
        for name, wanted in ROWS:
            shares: list[dict[str, float]] = [{} for _ in range(width)]
            chosen = np.isin(units, [col.UNITS.index(unit) for unit in wanted])
            chosen &= (cores == core) & (timeline.starts < end)
            starts = timeline.starts[chosen] / end * width
            ends = timeline.ends[chosen] / end * width
            numbers = operations[chosen].tolist()
            for number, start, stop in zip(numbers, starts.tolist(), ends.tolist(), strict=True):
                _fill(shares, LETTERS[col.OPERATIONS[number]], start, stop)
            title = f"core {core}" if name == ROWS[0][0] else ""
            lines.append(f"{title:<8}{name:<7}{''.join(map(_column_letter, shares))}")
    lines.append(f"{'':<15}0{f'{end:,.0f} cycles':>{width - 1}}")
    present = {LETTERS[col.OPERATIONS[number]] for number in np.unique(operations).tolist()}
    legend = "  ".join(f"{letter} {word}" for letter, word in LEGEND.items() if letter in present)
    lines.append(f"{'':<15}{legend}  . idle")
    return "\n".join(lines)


def opening_gantt(timeline: Timeline, width: int = 72, total_cycles: float | None = None) -> str:
    """Return the beginning of a timeline as text, see ``text_gantt``.

    As much of it as fits if a task of the matrix unit takes some columns: with more, the chart
    would no longer show which task runs beside which.

    Args:
        timeline: What to show.
        width: Columns.
        total_cycles: What the whole program takes, if the timeline is only its beginning.
    """
    table = timeline.program.schedule.table
    chosen = (table.units == col.UNITS.index(Unit.MATRIX)) & (table.rows[:, col.CORE] == 0)
    ends = np.sort(timeline.ends[chosen])
    shown = width // COLUMNS_PER_TASK
    total = total_cycles or timeline.cycles
    chart = text_gantt(timeline, width, float(ends[shown]) if shown < len(ends) else None)
    if shown >= len(ends) and total <= timeline.cycles:
        return chart
    return f"{chart}\n{'':<15}(the whole takes {total:,.0f} cycles)"


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
