"""What the page of a Gantt chart shows, reduced to what its script can hold and draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hocket.plotting import COLORS, LABELS, LANES

if TYPE_CHECKING:
    from hocket.hwmodels.simulate import Timeline

MAX_MEMORY_STEPS = 4_000
"""More changes of the memory in use than this are thinned out, each kept one the highest of its
neighbours."""


def chart_data(timeline: Timeline, max_tasks: int) -> dict[str, Any]:
    """Return all that the page's script needs, ready for JSON.

    Args:
        timeline: The simulated program.
        max_tasks: How many tasks to keep, by start; the memory in use is cut where they end.
    """
    import numpy as np

    from hocket.hwmodels import columns as col
    from hocket.hwmodels.simulate import STALLS
    from hocket.hwmodels.tasks import TENSORS
    from hocket.hwmodels.trace import block_numbers

    table = timeline.program.schedule.table
    order = np.argsort(timeline.starts, kind="stable")[:max_tasks]
    rows = table.rows[order]
    operations = rows[:, col.OPERATION]
    # The rectangle a task is about: what it writes, or of a store what it reads.
    at = np.where(operations == col.STORE, col.READ, col.WRITE)
    index = np.arange(len(rows))
    machine = timeline.machine
    tasks = {
        "task": order.tolist(),
        "operation": operations.tolist(),
        "core": rows[:, col.CORE].tolist(),
        "start": _rounded(timeline.starts[order]),
        "end": _rounded(timeline.ends[order]),
        "idle": _rounded(timeline.idle_cycles[order]),
        "stall": timeline.stalls[order].tolist(),
        "block": block_numbers(timeline)[order].tolist(),
        "rows": rows[index, at + 3].tolist(),
        "columns": rows[index, at + 4].tolist(),
        "tensor": rows[:, col.TENSOR].tolist(),
        "matrix": rows[:, col.MATRIX].tolist(),
        "row": rows[:, col.ROW].tolist(),
        "column": rows[:, col.COLUMN].tolist(),
    }
    units = list(LANES)
    cores = sorted(set(table.rows[:, col.CORE].tolist())) or [0]
    ends = timeline.ends[order]
    is_all = len(order) == timeline.program.schedule.num_tasks
    end = timeline.cycles if is_all else float(ends.max(initial=0.0))
    return {
        "cycles": end,
        "microseconds": 1e6 / machine.clock_hz,
        "cores": cores,
        "lanes": list(LANES.values()),
        "operations": [
            {
                "name": str(operation),
                "label": LABELS[operation],
                "color": COLORS[operation],
                "lane": units.index(operation.unit),
            }
            for operation in col.OPERATIONS
        ],
        "legend": [col.OPERATIONS.index(operation) for operation in LABELS],
        "tensors": list(TENSORS),
        "stalls": [str(stall) for stall in STALLS],
        "tasks": tasks,
        "memory": _memory(timeline, end),
    }


def _memory(timeline: Timeline, end: float) -> dict[str, Any]:
    """Return the on-chip memory in use over time, in not too many steps."""
    import numpy as np

    from hocket.hwmodels.trace import on_chip_usage

    moments, counts = on_chip_usage(timeline)
    kept = moments <= end
    moments, counts = moments[kept], counts[kept]
    group = -(-len(moments) // MAX_MEMORY_STEPS)
    if group > 1:
        firsts = np.arange(0, len(moments), group)
        moments, counts = moments[firsts], np.maximum.reduceat(counts, firsts)
    memory = timeline.machine.on_chip_memory
    return {
        "name": memory.name,
        "capacity": memory.capacity_bytes,
        "reserved": timeline.program.peak_on_chip_bytes,
        "at": _rounded(moments),
        "bytes": counts.tolist(),
    }


def _rounded(values: Any) -> list[float | int]:
    """Return numbers with three digits behind the point, whole ones without any."""
    return [int(value) if value == int(value) else round(value, 3) for value in values.tolist()]
