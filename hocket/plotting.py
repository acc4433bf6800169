"""A simulated program as a picture: the streams of each core as voices, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hocket.hwmodels.program import Operation, Unit

if TYPE_CHECKING:
    import os

    from hocket.hwmodels.simulate import Timeline

# The two voices first, the porter below.
VOICES = (Unit.MATRIX, Unit.VECTOR, Unit.DMA)
COLORS = {
    Operation.SCORES: "#3b6ea5",
    Operation.OUTPUT: "#8fb3d9",
    Operation.SOFTMAX: "#d9822b",
    Operation.LOAD: "#7a9a5b",
    Operation.STORE: "#b8c99d",
}
LABELS = {
    Operation.SCORES: "scores (query x key)",
    Operation.SOFTMAX: "softmax",
    Operation.OUTPUT: "output (probabilities x value)",
    Operation.LOAD: "load",
    Operation.STORE: "store",
}


class PlotError(ImportError):
    """The drawing library is not installed."""


def draw_schedule(
    timeline: Timeline,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    core: int = 0,
    max_tasks: int = 120,
) -> None:
    """Draw the first tasks of one core as a Gantt chart, and write it as PNG.

    Args:
        timeline: The simulated program.
        path: The file to write.
        title: What stands above.
        core: Which core's streams to show.
        max_tasks: How many tasks to show, from the first on; more than some hundred are a blur.

    Raises:
        PlotError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise PlotError(
            "drawing needs matplotlib, which is not installed: pip install 'hocket[plot]'"
        ) from error

    to_microseconds = 1e6 / timeline.machine.clock_hz
    spans = _first_spans(timeline, core, max_tasks)
    figure = Figure(figsize=(11, 2.9), dpi=150, layout="constrained")
    axes: Any = figure.add_subplot()
    for row, unit in enumerate(VOICES):
        for operation, start, end in spans:
            if operation.unit is unit:
                axes.broken_barh(
                    [(start * to_microseconds, (end - start) * to_microseconds)],
                    (-row - 0.4, 0.8),
                    facecolors=COLORS[operation],
                    edgecolors="white",
                    linewidth=0.4,
                )
    axes.set_yticks([-row for row in range(len(VOICES))], [f"{unit} unit" for unit in VOICES])
    axes.set_xlabel(f"microseconds on {timeline.machine.name} (simulated)")
    axes.set_xlim(0, max((end for _, _, end in spans), default=1) * to_microseconds)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontsize=11)
    present = {operation for operation, _, _ in spans}
    figure.legend(
        handles=[Patch(color=COLORS[op], label=LABELS[op]) for op in LABELS if op in present],
        loc="outside lower center",
        ncols=len(LABELS),
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, format="png")


def _first_spans(
    timeline: Timeline, core: int, max_tasks: int
) -> list[tuple[Operation, float, float]]:
    """Return operation, start and end cycle of the first tasks of a core, by start."""
    tasks = timeline.program.schedule.tasks
    spans = [
        (task.operation, span.start, span.end)
        for task, span in zip(tasks, timeline.spans, strict=True)
        if task.core == core
    ]
    return sorted(spans, key=lambda item: item[1])[:max_tasks]
