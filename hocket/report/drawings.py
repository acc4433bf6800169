"""Drawings of a compiled module: rooflines, and the map of its tilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.report.svg import INK, as_svg, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.compiler.attention.search.landscape import Landscape
    from hocket.hwmodels.machine import HardwareModel

_ROOF, _POINT, _BEST = "#2f6aa8", "#e07b1f", "#e0341f"
_MARGIN = 4.0  # of the axes beyond the points, as a factor
_FARTHEST = 32.0  # from the best, as a factor, that has a colour of its own
_TICKS = (1, 1.2, 1.5, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Point:
    """What a layer does for each byte it moves, and how fast.

    Attributes:
        label: Beside it.
        macs_per_byte: Multiply-accumulates by bytes that cross the DMA ports.
        macs_per_second: Multiply-accumulates a second, as predicted.
    """

    label: str
    macs_per_byte: float
    macs_per_second: float


def draw_roofline(machine: HardwareModel, points: Sequence[Point]) -> str:
    """Return layers under the machine's roofline: matrix units, and the way to DRAM.

    Raises:
        PlotError: matplotlib is not installed.
    """
    peak = machine.matrix_unit.macs_per_cycle * machine.num_cores * machine.clock_hz
    bandwidth = machine.dma.bandwidth_bytes_per_second
    ridge = peak / bandwidth
    places = [ridge, *(point.macs_per_byte for point in points)]
    ends = (min(places) / _MARGIN, max(places) * _MARGIN)
    figure, axes = new_axes()
    way = np.geomspace(ends[0], ends[1], 200)
    axes.plot(way, np.minimum(peak, way * bandwidth) / 1e9, color=_ROOF, linewidth=2)
    axes.annotate(
        f"matrix units, {peak / 1e9:,.0f} G a second",
        (ends[1], peak / 1e9),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        color=INK,
    )
    axes.annotate(
        f"DRAM, {bandwidth / 1e9:,.3g} GB a second",
        (ends[0], ends[0] * bandwidth / 1e9),
        xytext=(26, 4),
        textcoords="offset points",
        color=INK,
    )
    for point in points:
        at = (point.macs_per_byte, point.macs_per_second / 1e9)
        axes.plot(*at, "o", color=_POINT)
        offset = {"xytext": (7, -12), "textcoords": "offset points"}
        axes.annotate(point.label, at, color=INK, parse_math=False, **offset)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="multiply-accumulates for each byte to or from DRAM",
        ylabel="G multiply-accumulates a second",
    )
    axes.set_ylim(top=1.6 * peak / 1e9)
    axes.grid(visible=True, which="major", color=INK, alpha=0.12)
    return as_svg(figure)


def draw_landscape(landscape: Landscape) -> str:
    """Return the map of a space: cycles by the sizes of tiles, of the best by how much more.

    Raises:
        PlotError: matplotlib is not installed.
    """
    figure, axes = new_axes()
    ratios = landscape.cycles / np.nanmin(landscape.cycles)
    from matplotlib.colors import LogNorm

    # Cell by cell: a picture inside the drawing would be another file to the page.
    shown = axes.pcolormesh(
        np.ma.masked_invalid(ratios),
        norm=LogNorm(1.0, max(min(float(np.nanmax(ratios)), _FARTHEST), 1.01)),
        cmap="viridis_r",
    )
    row, column = np.unravel_index(int(np.nanargmin(ratios)), ratios.shape)
    axes.plot(column + 0.5, row + 0.5, "*", color=_BEST, markersize=13, markeredgecolor="white")
    guessed = np.argwhere(~landscape.is_simulated & np.isfinite(ratios))
    if len(guessed):
        axes.plot(*(guessed[:, ::-1].T + 0.5), ".", color="white", markersize=2.5)
    columns, rows = landscape.kv_columns, landscape.query_rows
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=60)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set(xlabel="keys of a product", ylabel="query rows of a block")
    bar = figure.colorbar(shown, ax=axes, format="%.3g", ticks=_TICKS)
    bar.minorticks_off()
    bar.solids.set_rasterized(False)
    bar.set_label("times the cycles of the best", color=INK)
    bar.ax.tick_params(which="both", colors=INK)
    bar.outline.set_edgecolor(INK)
    return as_svg(figure)
