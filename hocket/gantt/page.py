"""The page of a Gantt chart, with all that it needs inside.

The page holds the tasks as JSON, column by column, and a script of its own that draws them on a
canvas; it loads nothing, so it works from a mail or an archive. All text comes through
``html.escape`` or as JSON with ``<``, ``>`` and ``&`` escaped, and the script writes it by
``textContent`` alone.

Its frame, its style and the two parts of its script are files beside this one. The parts share one
function of the frame's, so that ``controls.js`` may use what ``drawing.js`` defines while neither
leaves a global name.
"""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from hocket.gantt.data import chart_data

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.hwmodels.simulate import Timeline

MAX_TASKS = 100_000
"""More tasks than this are cut off at the end, and the page says so."""


def write_gantt_html(
    timeline: Timeline,
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    max_tasks: int = MAX_TASKS,
) -> None:
    """Write a timeline as an HTML file, whole or not at all; see ``gantt_html``."""
    from hocket.runtime.files import atomic_file

    text = gantt_html(timeline, title=title, facts=facts, max_tasks=max_tasks)
    with atomic_file(path) as file:
        file.write(text.encode())


def gantt_html(
    timeline: Timeline,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    max_tasks: int = MAX_TASKS,
) -> str:
    """Return a timeline as an HTML page.

    Args:
        timeline: The simulated program.
        title: What stands above.
        facts: Names and values of figures to show on top, both as text.
        max_tasks: How many tasks to show, from the first on.
    """
    data = chart_data(timeline, max_tasks)
    shown, total = len(data["tasks"]["start"]), timeline.program.schedule.num_tasks
    note = ""
    if shown < total:
        note = f"The first {shown:,} of {total:,} tasks are shown."
    figures = "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts
    )
    fields = {
        "TITLE": html.escape(title),
        "FACTS": figures,
        "NOTE": html.escape(note),
        "DATA": _script_json(data),
        "STYLE": _read("page.css"),
        "DRAWING": _read("drawing.js"),
        "CONTROLS": _read("controls.js"),
    }
    # In one pass, so that what is put in is not looked at again.
    return re.sub("@([A-Z]+)@", lambda mark: fields[mark[1]], _read("page.html"))


def _read(name: str) -> str:
    return resources.files("hocket.gantt").joinpath(name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
