"""``hocket export`` and ``hocket inspect`` on what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.modules import tiny_artifact
from typer.testing import CliRunner

from hocket.cli import app
from hocket.compiler.export.cpus import CPUS
from hocket.runtime.artifact import save_artifact

DOCS = Path(__file__).parents[2] / "docs"
AARCH64 = ("--triple", "aarch64-linux-gnu")


def call(*arguments: object) -> Result:
    # Wide, so that no message is broken into lines.
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def ask(*arguments: object) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module that was compiled for a Cortex-A76."""
    path = tmp_path_factory.mktemp("command") / "tiny.hkt"
    save_artifact(tiny_artifact("cortex-a76"), path)
    return path


def test_an_export_is_made_and_looked_at(module: Path) -> None:
    folder = module.parent / "out"
    made = ask("export", module, *AARCH64, "-o", folder)
    assert (made["kind"], made["cpu"], made["target"]) == (
        "onnxruntime",
        "cortex-a76",
        "cortex-a76",
    )
    seen = ask("inspect", folder)
    assert seen == {"path": str(folder)} | {
        key: value for key, value in made.items() if key not in ("folder", "seconds")
    }
    keys = re.findall(r"`\.?([\w\[\].]+)`", (DOCS / "cli.md").read_text(encoding="utf-8"))
    for key in made:
        assert key in keys or f"{key}[]" in keys, key
    words = call("inspect", folder).stdout
    for word in (
        "as onnxruntime for cortex-a76 (aarch64)",
        "attention/softmax",
        "model.onnx",
        "us",
    ):
        assert word in words

    (folder / "README.md").write_text("other words")
    refused = call("inspect", folder)
    assert refused.exit_code == 2
    assert "README.md: is not what was exported" in refused.stderr


def test_what_is_said_of_an_export_for_another_cpu(module: Path) -> None:
    words = call("export", module, *AARCH64, "--cpu", "cortex-a53", "-o", module.parent / "a53")
    assert words.exit_code == 0, words.output
    assert "exported for cortex-a53 (aarch64), needing nothing that such a machine" in words.stdout
    assert "tiles and estimates are those for cortex-a76" in words.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--triple", "mips-linux-gnu"), "cannot export for 'mips-linux-gnu'"),
        ((*AARCH64, "--cpu", "znver5"), "no CPU 'znver5' of aarch64 is known"),
        ((*AARCH64, "--format", "wheel"), "want one of library, onnxruntime"),
        ((*AARCH64, "--dim", "seq=9"), "no open dimension 'seq'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    module: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = call("export", module, *arguments, "-o", module.parent / "none")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (module.parent / "none").exists()


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    result = call("inspect", tmp_path)
    assert result.exit_code == 2
    assert "no export of Hocket" in result.stderr


def test_the_page_names_all_cpus() -> None:
    page = (DOCS / "raspberry-pi.md").read_text(encoding="utf-8")
    assert [name for name in CPUS if f"`{name}`" not in page] == []
