"""The report of a module, made by the command and read as a browser reads it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from support.browser import find_browser, open_page
from support.pages import NASTY, Read
from support.tiny_encoder import write_tiny_encoder
from typer.testing import CliRunner

import hocket
from hocket.cli import app
from hocket.inspection import inspect_artifact
from hocket.report.module_report import module_report
from hocket.report.page import Section, page_html, paragraph, table
from hocket.runtime.artifact import load_artifact, save_artifact

BROWSER = find_browser()


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module for a device with two units."""
    folder = tmp_path_factory.mktemp("report")
    model = write_tiny_encoder(folder)
    compiled = hocket.compile(model, target="mas-edge", dims={"batch": 2, "seq": 32})
    save_artifact(compiled.artifact, folder / "tiny.hkt")
    return folder / "tiny.hkt"


@pytest.fixture(scope="module")
def written(module: Path) -> Path:
    """Its page."""
    path = module.with_name("page.html")
    status, said = run("report", module, "-o", path)
    assert status == 0, said
    assert f"{len(path.read_text(encoding='utf-8')):,} bytes" in said
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    return result.exit_code, result.output


def test_the_page_has_it_all_and_loads_nothing(module: Path, written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    found = Read(page)
    assert found.loads == []
    assert not re.search(r"@import|url\((?!#)", page)
    assert found.count["svg"] == 2
    (frame,) = found.frames
    assert "canvas" in frame
    artifact = load_artifact(module)
    estimate = artifact.attention_steps[0].estimate
    for text in (artifact.digest[:16], f"{estimate.cycles:,.0f}", artifact.target.description):
        assert text in page


def test_a_layer_that_is_not_there_is_refused(module: Path, tmp_path: Path) -> None:
    status, said = run("report", module, "--layer", 1, "-o", tmp_path / "page.html")
    assert status == 2
    assert "there are 1 layers, from 0 to 0" in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []


def test_names_from_files_cannot_become_markup(module: Path) -> None:
    artifact = load_artifact(module)
    machine = dataclasses.replace(artifact.target, name="m", description=NASTY)
    evil = dataclasses.replace(artifact, model_name=NASTY, target=machine)
    plain, page = (module_report(inspect_artifact(each)) for each in (artifact, evil))
    assert Read(page).count == Read(plain).count
    assert "<img" not in page


def test_parts_of_pages_are_text() -> None:
    rows = table(("a", NASTY), [(NASTY, "1")], text=(NASTY,))
    page = page_html(NASTY, NASTY, [Section(NASTY, (rows, paragraph(NASTY)))])
    assert "<img" not in page
    assert Read(page).count["td"] == 2


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it(written: Path, tmp_path: Path, width: int, is_dark: bool) -> None:
    assert BROWSER is not None
    with open_page(BROWSER, tmp_path / "profile") as page:
        page.open(written.as_uri(), width, is_dark=is_dark)
        page.wait_for("document.readyState === 'complete'")
        # The schedule has been drawn: its canvas has a size, and ink.
        page.wait_for(
            "(() => { const c = document.querySelector('iframe').contentDocument"
            "?.getElementById('chart'); return c && c.width > 100 && "
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((x) => x); })()"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(23, 24, 27)" if is_dark else "rgb(255, 255, 255)")
        assert page.errors == []
