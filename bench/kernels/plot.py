"""The ratios of a comparison as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_INCHES_A_ROW = 0.24
_WIDTH_INCHES = 8.0


def plot_ratios(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw one bar a row: the best peer's time over ours, coloured by kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [row for row in rows if row["ratio"] is not None]
    kinds = list(dict.fromkeys(row["kind"] for row in compared))
    height = 1.2 + _INCHES_A_ROW * len(compared)
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kind in kinds:
        places = [place for place, row in enumerate(compared) if row["kind"] == kind]
        bars = axes.barh(
            places,
            [compared[place]["ratio"] for place in places],
            color=f"C{kinds.index(kind)}",
            label=kind,
        )
        labels = [f"{compared[p]['ratio']:.2f}  {compared[p]['best_peer']}" for p in places]
        axes.bar_label(bars, labels, padding=3, fontsize="x-small")
    axes.set_yticks(
        range(len(compared)),
        [f"{row['name'] or row['problem']}, {row['threads']} thr." for row in compared],
        fontsize="x-small",
    )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.01)
    axes.set_xlabel("best peer's time over ours")
    axes.legend(fontsize="x-small")
    temporary = path.with_name(f".{path.name}.new")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)
