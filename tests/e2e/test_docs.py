"""Every code block of README and docs/ runs, or says why not; commands and options exist anyway."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from support.doc_blocks import COMMANDS, SHOWN, Block, find_blocks, misused_options
from support.tiny_encoder import make_tiny_encoder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page.relative_to(ROOT).as_posix(): find_blocks(page.read_text("utf-8")) for page in PAGES}
RUNNER = ROOT / "tests" / "support" / "run_page.py"


def is_run(block: Block) -> bool:
    """Whether a block does something, other than to be looked at."""
    return not block.is_left_out and block.language not in SHOWN


@pytest.mark.parametrize(
    "name", [name for name, found in BLOCKS.items() if any(map(is_run, found))]
)
def test_a_page_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    for package in ("torch", "starlette", "sklearn"):
        pytest.importorskip(package)
    onnx.save(make_tiny_encoder(), tmp_path / "model.onnx")
    # What a reader has in the folder of the project.
    for folder in ("examples", "hwmodels/targets"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    result = subprocess.run(
        [sys.executable, str(RUNNER), str(ROOT / name)],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "block",
    [
        "```python\nassert 1 == 2\n```\n",
        "```\nhocket targets show nowhere\n```\n",
        "```sh\nfalse\necho done\n```\n",
        '```toml\n[federation]\nname = "x"\nturns = 3\n```\n',
        "```nim\necho 1\n```\n",
    ],
)
def test_a_block_that_fails_is_found(block: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Words.\n\n{block}", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(RUNNER), str(page)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "page.md:3: the block above did not run" in result.stderr


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    for block in BLOCKS[name]:
        where = f"{name}:{block.line}"
        if block.run_by:
            test = (ROOT / block.run_by).read_text("utf-8")
            assert Path(name).name in test, f"{where}: {block.run_by} does not know this page"
        if block.language in SHOWN:
            typed = [line for line in block.text.splitlines() if line.startswith(COMMANDS)]
            assert not typed, f"{where}: is this to be typed? then it is no {block.language}"
        elif block.is_console:
            first = block.commands()[0].split()[0]
            assert block.language or first in COMMANDS, f"{where}: what is {first!r}?"


@pytest.mark.parametrize("name", BLOCKS)
def test_commands_and_options_of_all_blocks_exist(name: str) -> None:
    wrong = {
        f"{name}:{block.line}: {line}": reason
        for block in BLOCKS[name]
        if block.is_console
        for line in block.commands()
        if (reason := misused_options(line))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hocket compile model.onnx --dims batch=1", "--dims"),
        ("hocket compil model.onnx", "no command 'compil'"),
        ("hocket venn serve --databases x", "hocket venn serve: No such option"),
        ("hocket inspect model.hkt --layer", "requires an argument"),
    ],
)
def test_an_option_that_was_renamed_is_found(line: str, message: str) -> None:
    assert message in misused_options(line)


def test_a_fence_that_is_not_closed_is_found() -> None:
    with pytest.raises(ValueError, match="not closed"):
        find_blocks("```python\nx = 1\n")


@pytest.mark.parametrize("name", BLOCKS)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M)
            assert heading in [slug(each) for each in headings], f"{name}: {target}"


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_files_that_the_map_names_exist() -> None:
    """In a row, a name without a folder is beside the one before it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("## Where things are\n")[2].partition("\n## ")[0]
    missing, num_found = [], 0
    for row in re.findall(r"^\| (`.*?) \|", section, re.M):
        beside = ROOT
        for name in re.findall(r"`([^`]+)`", row):
            found = [folder for folder in (beside, ROOT) if [*folder.glob(name)]]
            if not found:
                missing.append(name)
                continue
            num_found += 1
            if "*" not in name:
                beside = (found[0] / name).parent
    assert missing == []
    assert num_found > 200
