"""Real text of several kinds, from packages of Debian: one kind a client, as such data come.

Packages are got by name when they are wanted, unpacked without root, and never kept with the code:
their licences differ, and they are others'.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

LEAST_CHARACTERS = 60
LEAST_LETTERS = 0.75
"""Share of a paragraph's characters that are letters or spaces; less is no prose."""

_PARAGRAPHS = 40
"""Of a document, where a file has no end of its own, such as a dictionary."""


@dataclass(frozen=True)
class Corpus:
    """A kind of text.

    Attributes:
        packages: Names of the package that has it, one a release of Debian; the first there is.
        files: Pattern of its files, from the root.
    """

    packages: tuple[str, ...]
    files: str


CORPORA = {
    "essays": Corpus(("anarchism",), "usr/share/doc/anarchism/html/*.html"),
    "dictionary": Corpus(("dict-gcide",), "usr/share/dictd/gcide.dict.dz"),
    "kernel": Corpus(
        ("linux-doc-6.1", "linux-doc-6.12", "linux-doc"),
        "usr/share/doc/linux-doc-*/html/_sources/**/*.txt",
    ),
    "python": Corpus(
        ("python3.11-doc", "python3.13-doc"), "usr/share/doc/python3.*/html/_sources/**/*.txt"
    ),
    "perl": Corpus(("perl-doc",), "usr/share/perl/*/pod/*.pod"),
    "git": Corpus(("git-doc",), "usr/share/doc/git/**/*.txt"),
    "postgresql": Corpus(
        ("postgresql-doc-15", "postgresql-doc-17"), "usr/share/doc/postgresql-doc-*/html/*.html"
    ),
    "java": Corpus(("openjdk-17-doc", "openjdk-21-doc"), "usr/share/doc/openjdk-*/api/**/*.html"),
}
"""Kinds of text by name."""


def fetch(name: str, folder: str | os.PathLike[str]) -> Path:
    """Get a corpus, if the folder does not have it yet, and return the folder of its files.

    Args:
        name: One of ``CORPORA``.
        folder: Where corpora are kept.

    Raises:
        ConfigError: There is no such corpus, or its package cannot be had here.
    """
    if name not in CORPORA:
        raise ConfigError(f"no corpus {name!r}; there are {', '.join(CORPORA)}")
    place = Path(folder) / name
    if place.exists():
        return place
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise ConfigError(f"corpus {name!r} is a package of Debian; there is no {missing[0]} here")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
        work = Path(temporary)
        work.chmod(0o755)  # apt's own user writes there
        for package in CORPORA[name].packages:
            _run("apt-get", "download", "-q", package, cwd=work)
            found = list(work.glob("*.deb"))
            if found and _run("dpkg-deb", "-x", str(found[0]), "files", cwd=work):
                (work / "files").rename(place)
                return place
    raise ConfigError(
        f"corpus {name!r}: apt-get cannot download {' or '.join(CORPORA[name].packages)}"
    )


def read_documents(name: str, root: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the documents of a corpus, in the order of their files' names.

    A document is the paragraphs of prose in it, each of which comes once in a corpus.

    Args:
        name: One of ``CORPORA``.
        root: Folder of its files, as ``fetch`` returns it.
    """
    seen: set[bytes] = set()
    for path in sorted(Path(root).glob(CORPORA[name].files)):
        if not path.is_file():
            continue
        paragraphs = []
        for paragraph in find_paragraphs(read_text(path)):
            digest = hashlib.sha256(paragraph.encode()).digest()[:16]
            if digest not in seen:
                seen.add(digest)
                paragraphs.append(paragraph)
        for start in range(0, len(paragraphs), _PARAGRAPHS):
            yield "\n\n".join(paragraphs[start : start + _PARAGRAPHS])


def read_text(path: Path) -> str:
    """Return the text of a file: of HTML what is shown of it, of gzip what is inside."""
    content = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        content = gzip.decompress(content)
    text = content.decode("utf-8", errors="replace")
    if path.suffix != ".html":
        return text
    shown = _Shown()
    shown.feed(text)
    shown.close()
    return "".join(shown.parts)


def find_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text that are prose, their white space made single."""
    for part in re.split(r"\n[ \t]*\n", text):
        paragraph = " ".join(part.split())
        letters = sum(each.isalpha() or each == " " for each in paragraph)
        if len(paragraph) >= LEAST_CHARACTERS and letters >= LEAST_LETTERS * len(paragraph):
            yield paragraph


class _Shown(HTMLParser):
    """Gathers what a page shows; blocks are paragraphs."""

    _HIDDEN = frozenset({"script", "style", "head"})
    _INLINE = frozenset({"a", "b", "i", "em", "strong", "code", "tt", "span", "sub", "sup"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in self._HIDDEN
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self._HIDDEN and self._hidden > 0
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag not in self._INLINE:
            self.parts.append("\n\n")


def _run(*command: str, cwd: Path) -> bool:
    # Names of packages are ours, and no shell is asked.
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True).returncode == 0  # noqa: S603
