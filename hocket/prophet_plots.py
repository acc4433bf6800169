"""Pictures of robust training: what modules take, accuracies by round and by strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hocket.fl.fat.cascade import ADVERSARIAL, CLEAN, DISPLACEMENT
from hocket.plotting import check_can_draw, picture_format
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.fl.core.types import RoundReport
    from hocket.prophet_plan import ProphetPlan

_BLUE, _ORANGE, _QUIET = "#2f6aa8", "#e07b1f", "#888888"
_MEGA = 1e6


def draw_plan(plan: ProphetPlan, path: str | os.PathLike[str]) -> None:
    """Draw what each module takes beside the budget and the whole model.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: The file's ending names no format of pictures.
    """
    figure, axes = _figure("modules and what they take", path)
    peaks = [each.footprint.peak_bytes / _MEGA for each in plan.modules]
    axes.bar(range(len(peaks)), peaks, color=_BLUE)
    axes.bar(len(peaks), plan.whole.peak_bytes / _MEGA, color=_ORANGE)
    axes.axhline(plan.budget_bytes / _MEGA, color=_QUIET, linestyle="--", label="budget")
    axes.set_xticks(range(len(peaks) + 1), [*map(str, range(len(peaks))), "whole"])
    axes.set_xlabel("module")
    axes.set_ylabel("MB at the peak of a step")
    axes.legend()
    _write(figure, path)


def draw_rounds(reports: Sequence[RoundReport], path: str | os.PathLike[str]) -> None:
    """Draw accuracies on what devices hold out, round for round; lines are where stages end.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: The file's ending names no format of pictures.
    """
    figure, axes = _figure("on what devices hold out", path)
    for name, color in ((CLEAN, _BLUE), (ADVERSARIAL, _ORANGE)):
        points = [(r.round, r.train_metrics[name]) for r in reports if name in r.train_metrics]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=name.replace("_", " "))
    for report in reports:
        if DISPLACEMENT in report.train_metrics:
            axes.axvline(report.round, color=_QUIET, linestyle=":")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    _write(figure, path)


def draw_sweep(
    radii: Sequence[float], accuracies: Sequence[float], path: str | os.PathLike[str]
) -> None:
    """Draw accuracy over how strong an attack is.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: The file's ending names no format of pictures.
    """
    figure, axes = _figure("accuracy under attack", path)
    axes.plot(radii, accuracies, color=_ORANGE, marker="o")
    axes.set_xlabel("largest change of a pixel")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    _write(figure, path)


def _figure(title: str, path: str | os.PathLike[str]) -> tuple[Any, Any]:
    check_can_draw()
    picture_format(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format=picture_format(path), dpi=150)
