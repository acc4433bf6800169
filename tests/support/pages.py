"""Pages as tests read them: what they load, and which elements they have."""

from __future__ import annotations

from html.parser import HTMLParser

NASTY = "</script><img src=x onerror=alert(1)> & \"quoted\" '<b>' $x$"
"""A name that must stay one."""


class Read(HTMLParser):
    """What a page loads, and how many elements of each kind it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loads: list[str] = []
        self.frames: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        for name, value in attrs:
            # Links within the page and within a drawing load nothing.
            is_inner = (value or "").startswith("#")
            if name in ("src", "href", "xlink:href", "srcset") and not is_inner:
                self.loads.append(f"{tag} {name}={value}")
            if name == "srcdoc":
                self.frames.append(value or "")
