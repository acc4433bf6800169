"""Drawings as SVG that stands in a page and takes on its colours."""

from __future__ import annotations

import io
import re
from typing import Any

from hocket.plotting import check_can_draw

INK = "#010203"
"""Takes the place of the page's own colour of letters, which the drawing library cannot name."""

WIDTH, HEIGHT = 8.6, 4.2
"""Of a drawing, in inches."""


def new_axes(height: float = HEIGHT, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure, and its axes: one, or an array of several side by side.

    Raises:
        PlotError: matplotlib is not installed.
    """
    check_can_draw()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    found = figure.subplots(1, columns, squeeze=False)[0]
    for axes in found:
        axes.patch.set_alpha(0)
        axes.tick_params(which="both", colors=INK)
        for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
            part.set_color(INK)
        for spine in axes.spines.values():
            spine.set_edgecolor(INK)
    return figure, found[0] if columns == 1 else found


def as_svg(figure: Any) -> str:
    """Return a figure without what only files of their own have."""
    import matplotlib as mpl

    file = io.StringIO()
    # Names inside are drawn at random otherwise; a page is the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hocket", "font.size": 9.5}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace(INK, "currentColor")
