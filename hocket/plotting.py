"""A simulated program as a picture: the streams of a core as voices, one above the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.tasks import Operation, Unit
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os

    from hocket.hwmodels.simulate import Timeline

# The two voices first, what is moved for them below.
LANES = {
    Unit.MATRIX: "matrix unit",
    Unit.VECTOR: "vector unit",
    Unit.LOAD: "loads",
    Unit.STORE: "stores",
}
COLORS = {
    Operation.SCORES: "#2f6aa8",
    Operation.OUTPUT: "#86b4e0",
    Operation.SOFTMAX: "#e07b1f",
    Operation.EXPONENTIALS: "#e07b1f",
    Operation.RESCALE: "#f2b54d",
    Operation.MERGE: "#c9a227",
    Operation.NORMALIZE: "#b5562b",
    Operation.LOAD: "#5f9a62",
    Operation.STORE: "#9a7fb5",
}
LABELS = {
    Operation.SCORES: "C  scores: query x key",
    Operation.OUTPUT: "O  output: probabilities x value",
    Operation.SOFTMAX: "P  softmax",
    Operation.EXPONENTIALS: "P  softmax, division later",
    Operation.RESCALE: "rescale and add",
    Operation.MERGE: "merge",
    Operation.NORMALIZE: "divide the output",
    Operation.LOAD: "load",
    Operation.STORE: "store",
}
LETTERS = {
    Operation.SCORES: "C",
    Operation.OUTPUT: "O",
    Operation.SOFTMAX: "P",
    Operation.EXPONENTIALS: "P",
}
"""Letters of the tasks that are shown with the number of their row block."""

MAX_TASKS = 120

FORMATS = ("png", "svg", "pdf")
"""What pictures may be, by the endings of their files."""

_INK, _QUIET, _GROUND = "#222222", "#666666", "#f1f1ee"
_INCHES = (12.0, 3.5)
_HEIGHT = 0.84  # of a lane
_PALE = 0.3
# Share of the figure's width that the lanes have.
_LANES_SHARE = 0.83
# Bars shorter than this share of the picture have no edge.
_MIN_EDGED_SHARE = 0.002
# Sizes of labels in points, and inches that one character then needs.
_LABEL_SIZES = ((7.5, 0.07), (6.3, 0.055), (5.5, 0.047))


class PlotError(ImportError):
    """The drawing library is not installed."""


def check_can_draw() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        PlotError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PlotError(
            "drawing needs matplotlib, which is not installed: pip install 'hocket[plot]'"
        ) from error


def picture_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a picture by its file's ending.

    Raises:
        ValueError: It is none that is known.
    """
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        endings = ", ".join(f".{each}" for each in FORMATS)
        raise ValueError(f"want the name of a picture that ends in one of {endings}; got {path}")
    return suffix


def draw_schedule(
    timeline: Timeline,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    core: int = 0,
    max_tasks: int = MAX_TASKS,
    total_cycles: float | None = None,
) -> None:
    """Draw the first tasks of one core as a Gantt chart, and write it whole or not at all.

    The tasks of one row block bear its number, so that one sees how far the units are apart.
    Transfers for other cores, which take turns in the same queues, are pale.

    Args:
        timeline: The simulated program.
        path: The file to write; its ending says as what.
        title: What stands above.
        core: Which core's streams to show.
        max_tasks: How many tasks to show, from the first on; more than some hundred are a blur.
        total_cycles: What the whole program takes, if the timeline is only its beginning.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: The file's ending is that of no known format.
    """
    check_can_draw()
    kind = picture_format(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bars, end = _first_bars(timeline, core, max_tasks)
    to_microseconds = 1e6 / timeline.machine.clock_hz
    figure = Figure(figsize=_INCHES, dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    units = list(LANES)
    for row in range(len(units)):
        axes.barh(-row, end * to_microseconds, height=_HEIGHT, color=_GROUND, zorder=0)
    _draw_bars(axes, bars, end, to_microseconds, units)
    _label_blocks(axes, bars, end, to_microseconds, units)
    _write_shares(axes, timeline, core, end * to_microseconds, units)
    axes.set_yticks([-row for row in range(len(units))], LANES.values(), fontsize=9.5)
    axes.set_ylim(-len(units) + 0.45, 0.55)
    axes.set_xlim(0, end * to_microseconds)
    axes.set_xlabel(
        f"microseconds on {timeline.machine.name}, core {core} of "
        f"{timeline.machine.num_cores} (simulated)",
        fontsize=9,
        color=_QUIET,
    )
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.tick_params(axis="x", labelsize=8.5, labelcolor=_QUIET, color=_QUIET)
    total = total_cycles or timeline.cycles
    shown = f"{total:,.0f} cycles"
    if end < total:
        shown = f"the first {end:,.0f} of {shown}"
    axes.annotate(
        shown, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=9.5, color=_QUIET
    )
    axes.set_title(title, loc="left", pad=20, fontsize=12, fontweight="bold", color=_INK)
    present = {bar.operation for bar in bars}
    handles = [Patch(color=COLORS[kind], label=LABELS[kind]) for kind in LABELS if kind in present]
    if not all(bar.is_own for bar in bars):
        pale = COLORS[Operation.LOAD]
        handles.append(Patch(color=pale, alpha=_PALE, linewidth=0, label="pale: for another core"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.1,
        columnspacing=1.6,
    )
    with atomic_file(path) as file:
        figure.savefig(file, format=kind)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A task to draw: its cycles, the row block it belongs to or -1, and whether it is own."""

    operation: Operation
    start: float
    end: float
    number: int
    is_own: bool


def _first_bars(timeline: Timeline, core: int, max_tasks: int) -> tuple[list[_Bar], float]:
    """Return the first tasks of a core, all transfers beside them, and when the last one ends."""
    from hocket.hwmodels import columns as col
    from hocket.hwmodels.trace import block_numbers

    rows = timeline.program.schedule.table.rows
    own = (rows[:, col.CORE] == core).nonzero()[0]
    own = own[timeline.starts[own].argsort(kind="stable")][:max_tasks]
    if not len(own):
        return [], 1.0
    end = float(timeline.ends[own].max()) if len(own) == max_tasks else timeline.cycles
    operations = rows[:, col.OPERATION]
    shown = (rows[:, col.CORE] == core) | (operations == col.LOAD) | (operations == col.STORE)
    shown &= timeline.starts < end
    numbers = block_numbers(timeline)
    bars = [
        _Bar(
            col.OPERATIONS[rows[task, col.OPERATION]],
            float(timeline.starts[task]),
            min(float(timeline.ends[task]), end),
            int(numbers[task]),
            bool(rows[task, col.CORE] == core),
        )
        for task in shown.nonzero()[0].tolist()
    ]
    return sorted(bars, key=lambda bar: bar.start), end


def _draw_bars(
    axes: Any, bars: list[_Bar], end: float, to_microseconds: float, units: list[Unit]
) -> None:
    """Draw all bars, in one go for those that look alike."""
    alike: dict[tuple[Operation, bool, bool], list[tuple[float, float]]] = {}
    for bar in bars:
        length = bar.end - bar.start
        # White edges part bars that touch, and would cover narrow ones.
        has_edge = length / end > _MIN_EDGED_SHARE
        span = (bar.start * to_microseconds, length * to_microseconds)
        alike.setdefault((bar.operation, bar.is_own, has_edge), []).append(span)
    for (operation, is_own, has_edge), spans in alike.items():
        color = COLORS[operation]
        axes.broken_barh(
            spans,
            (-units.index(operation.unit) - _HEIGHT / 2, _HEIGHT),
            facecolors=color,
            edgecolors="white" if has_edge else color,
            linewidth=0.5 if has_edge else 0.3,
            alpha=1.0 if is_own else _PALE,
            zorder=2,
        )


def _label_blocks(
    axes: Any, bars: list[_Bar], end: float, to_microseconds: float, units: list[Unit]
) -> None:
    """Write C0, P0, O0 on the tasks of a row block where there is room; one for a run of them."""
    inches_per_cycle = _INCHES[0] * _LANES_SHARE / end
    for unit in (Unit.MATRIX, Unit.VECTOR):
        runs: list[_Bar] = []
        for bar in bars:
            if bar.operation.unit is not unit or bar.operation not in LETTERS or bar.number < 0:
                continue
            last = runs[-1] if runs else None
            if (
                last is not None
                and (last.operation, last.number) == (bar.operation, bar.number)
                and bar.start - last.end < _MIN_EDGED_SHARE * end
            ):
                runs[-1] = replace(last, end=bar.end)
            else:
                runs.append(bar)
        for run in runs:
            text = f"{LETTERS[run.operation]}{run.number}"
            room = (run.end - run.start) * inches_per_cycle / len(text)
            size = next((size for size, inches in _LABEL_SIZES if inches <= room), None)
            if size is None:
                continue
            axes.text(
                (run.start + run.end) / 2 * to_microseconds,
                -units.index(unit),
                text,
                ha="center",
                va="center_baseline",
                fontsize=size,
                color=_INK if run.operation is Operation.OUTPUT else "white",
                zorder=3,
                clip_on=True,
            )


def _write_shares(
    axes: Any, timeline: Timeline, core: int, right: float, units: list[Unit]
) -> None:
    """Write beside each lane for which share of the whole time its unit works."""
    from hocket.hwmodels import columns as col

    table = timeline.program.schedule.table
    length = timeline.ends - timeline.starts
    for row, unit in enumerate(units):
        chosen = table.units == col.UNITS.index(unit)
        if not unit.is_transfer:
            chosen &= table.rows[:, col.CORE] == core
        share = float(length[chosen].sum()) / timeline.cycles if timeline.cycles else 0.0
        axes.annotate(
            f"{share:.0%} busy",
            (right, -row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=_QUIET,
            annotation_clip=False,
        )
