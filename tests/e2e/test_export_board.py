"""``docs/raspberry-pi.md``, followed word for word, up to a board that is emulated.

What is for the board runs in a real Python and onnxruntime for AArch64, which ``make board``
downloads; without them only what is for the desktop is done.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.exports import data_folder, start_command
from support.tiny_encoder import make_tiny_encoder

PAGE = Path(__file__).parents[2] / "docs" / "raspberry-pi.md"


def code_blocks(heading: str) -> list[str]:
    """Return the code of a section of the page."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return re.findall(r"^```\w*\n(.*?)^```$", section, re.M | re.S)


def run_hocket(line: str, folder: Path) -> None:
    """Run a line that begins with ``hocket``."""
    words = shlex.split(line)
    assert words[0] == "hocket"
    main = "from hocket.cli import app; app()"
    subprocess.run([sys.executable, "-c", main, *words[1:]], cwd=folder, check=True)


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desktop")
    onnx.save(make_tiny_encoder(), folder / "model.onnx")
    (lines, *_) = code_blocks("On the desktop")
    for line in lines.splitlines():
        if not line.startswith("pip "):
            run_hocket(line, folder)
    return folder


def test_the_folder_has_what_the_page_says(desktop: Path) -> None:
    told = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(), re.M)
    files = {path.name for path in (desktop / "pi5").iterdir()}
    assert files == {name for name in told if "." in name}


def test_the_board_gives_the_numbers_of_the_original(desktop: Path) -> None:
    board = data_folder() / "board"
    if not (board / "whole").exists():
        pytest.skip("no Python and onnxruntime for AArch64: make board")
    program, *options = start_command("aarch64")
    options = options[: options.index("-L")]
    (_, code) = code_blocks("On the board")
    code += "numpy.save('outputs.npy', session.run(None, feeds)[0])\n"
    (desktop / "on_board.py").write_text(code)
    python = board / "root" / "usr" / "bin" / "python3.11"
    done = subprocess.run(
        [program, *options, "-L", str(board / "root"), str(python), "on_board.py"],
        cwd=desktop,
        env={**os.environ, "PYTHONPATH": str(board / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(1, 128, 16)]\n"
    session = onnxruntime.InferenceSession(str(desktop / "model.onnx"))
    ones = np.ones((1, 128), np.int64)
    (expected,) = session.run(None, {"ids": ones, "mask": ones})
    np.testing.assert_allclose(np.load(desktop / "outputs.npy"), expected, rtol=1e-5, atol=1e-6)
