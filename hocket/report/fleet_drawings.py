"""Drawings of a fleet: what its jobs learn by simulated time, and who works for whom when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.report.svg import INK, as_svg, new_axes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLORS = ("#2f6aa8", "#e07b1f", "#5f9a62", "#9a7fb5", "#b5562b", "#c9a227", "#3f8f8f", "#86b4e0")
_ROW_INCHES = 0.16
_PALE = 0.35
_LEAST_SHARE = 0.004  # of the drawing's width, so that short work can be seen


@dataclass(frozen=True)
class Work:
    """A time that a device was at work.

    Attributes:
        job: Whose.
        began, ended: In simulated hours.
        is_useful: Whether its answer counted.
    """

    job: str
    began: float
    ended: float
    is_useful: bool


def color_of(jobs: Sequence[str], job: str) -> str:
    """Return the colour that a job has in all drawings."""
    return _COLORS[list(jobs).index(job) % len(_COLORS)]


def draw_learning(
    jobs: Sequence[str], curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
) -> str:
    """Return how good models are by simulated time, one picture a measure.

    Args:
        jobs: All jobs, in the order of their colours.
        curves: By measure and job: simulated hours, and the figure.

    Raises:
        PlotError: matplotlib is not installed.
    """
    figure, found = new_axes(3.2, columns=max(len(curves), 1))
    for axes, (measure, lines) in zip(
        [found] if len(curves) <= 1 else found, curves.items(), strict=False
    ):
        for job, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker=".", color=color_of(jobs, job), label=job)
        axes.set(xlabel="simulated hours", ylabel=measure)
        axes.grid(visible=True, color=INK, alpha=0.12)
        legend = axes.legend(fontsize="small", frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return as_svg(figure)


def draw_devices(jobs: Sequence[str], devices: Mapping[str, Sequence[Work]]) -> str:
    """Return a line for each device with its work in the colours of jobs; pale if in vain.

    Args:
        jobs: All jobs, in the order of their colours.
        devices: Work of each, by what stands at its line.

    Raises:
        PlotError: matplotlib is not installed.
    """
    figure, axes = new_axes(1.0 + _ROW_INCHES * len(devices))
    last = max((each.ended for work in devices.values() for each in work), default=1.0)
    for row, work in enumerate(devices.values()):
        for each in work:
            axes.barh(
                row,
                max(each.ended - each.began, _LEAST_SHARE * last),
                left=each.began,
                height=0.8,
                color=color_of(jobs, each.job),
                alpha=1.0 if each.is_useful else _PALE,
            )
    axes.set_yticks(range(len(devices)), devices, fontsize=7, parse_math=False)
    axes.set(xlabel="simulated hours", xlim=(0, 1.02 * last), ylim=(len(devices) - 0.5, -0.5))
    axes.grid(visible=True, axis="x", color=INK, alpha=0.12)
    return as_svg(figure)
