"""The frame of a report: sections of figures, tables and drawings in one file that loads nothing.

All text comes through ``html.escape``; drawings are SVG that was made here.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: What stands above it.
        parts: What is in it, as HTML from the functions of this module.
    """

    title: str
    parts: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """The name that links have for it."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a whole page.

    Args:
        title: What stands above.
        lead: A sentence below it.
        sections: In their order.
    """
    links = "\n".join(
        f'<a href="#{each.anchor}">{html.escape(each.title)}</a>' for each in sections
    )
    bodies = "\n".join(
        f'<section id="{each.anchor}">\n<h2>{html.escape(each.title)}</h2>\n'
        + "\n".join(each.parts)
        + "\n</section>"
        for each in sections
    )
    fields = {
        "TITLE": html.escape(title),
        "LEAD": html.escape(lead),
        "LINKS": links,
        "SECTIONS": bodies,
        "STYLE": _read("page.css"),
    }
    # In one pass, so that what is put in is not looked at again.
    return re.sub("@([A-Z]+)@", lambda mark: fields[mark[1]], _read("page.html"))


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values, side by side as far as there is room."""
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs
    )
    return f"<dl>{rows}</dl>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text: Iterable[str] = ()) -> str:
    """Return a table.

    Args:
        header: Names of the columns; the first one is of words.
        rows: A text for each column.
        text: Names of the other columns of words.
    """
    words = set(text)
    kinds = [' class="text"' if name in words else "" for name in header]

    def row(cells: Sequence[str], tag: str) -> str:
        inner = "".join(
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
            for cell, kind in zip(cells, kinds, strict=True)
        )
        return f"<tr>{inner}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table>\n<thead>{row(header, "th")}</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def figure(svg: str, caption: str) -> str:
    """Return a drawing with what it shows in words."""
    return (
        f'<figure>\n<div class="scroll">{svg}</div>\n'
        f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
    )


def embedded(page: str, title: str) -> str:
    """Return another page inside this one."""
    return f'<iframe title="{html.escape(title)}" srcdoc="{html.escape(page)}"></iframe>'


def _read(name: str) -> str:
    return resources.files("hocket.report").joinpath(name).read_text(encoding="utf-8")
