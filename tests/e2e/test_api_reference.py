"""The API reference can be made, has what users import, and its links lead somewhere."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hocket

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference; a warning of pdoc is an error."""
    for package in ("pdoc", "torch", "sklearn", "httpx", "obstore"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("api")
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_api.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_every_name_of_the_front_door_has_its_docstring(reference: Path) -> None:
    page = (reference / "hocket.html").read_text("utf-8")
    for name in hocket.__all__:
        found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)
        assert found, name
        if name != "__version__":
            assert '<div class="docstring">' in found[1], name


def test_every_module_that_is_listed_has_a_page(reference: Path) -> None:
    listing = (ROOT / "docs" / "make_api.py").read_text("utf-8")
    modules = re.findall(r'^    "(hocket[\w.]*)",$', listing, re.M)
    pages = {
        path.relative_to(reference).as_posix().removesuffix(".html").replace("/", ".")
        for path in reference.rglob("*.html")
    }
    assert pages == {*modules, "index"}


def test_no_link_is_broken(reference: Path) -> None:
    texts = {
        page: re.sub(r"<script>.*?</script>", "", page.read_text("utf-8"), flags=re.S)
        for page in reference.rglob("*.html")
    }
    anchors = {page: {"", *re.findall(r'id="([^"]*)"', text)} for page, text in texts.items()}
    broken = []
    for page, text in texts.items():
        for link in re.findall(r'href="([^"]*)"', text):
            if re.match(r"https?:|data:|mailto:", link):
                continue
            file, _, anchor = html.unescape(link).partition("#")
            target = (page.parent / file).resolve() if file else page
            if anchor not in anchors.get(target, ()):
                broken.append(f"{page.name}: {link}")
    assert broken == []
