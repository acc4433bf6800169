"""Run the blocks of a page in order, as a reader would: ``python run_page.py PAGE``, in a folder.

Python blocks share their names; lines of consoles share one shell. A plain ``hocket ...`` runs in
this process, as most of what it takes otherwise is to start Python. Ports of the page are exchanged
for free ones. It ends with 1 and the block's line if one fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.doc_blocks import SHOWN, Block, find_blocks

_FOR_A_SHELL = re.compile(r"[|&;<>$`*(){}]")
_END = "end-of-block"


class Shell:
    """A shell that goes on from block to block, with what it has started in the background."""

    def __init__(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )

    def run(self, text: str) -> None:
        """Run lines; a failure ends the shell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text.rstrip()}\necho {_END}\n")
        self._process.stdin.flush()
        said = []
        for line in self._process.stdout:
            if line.strip() == _END:
                return
            said.append(line)
        raise RuntimeError(f"status {self._process.wait()}:\n{''.join(said)}")

    def close(self) -> None:
        """End it and all that it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_hocket(line: str) -> None:
    """Run a command of Hocket in this process."""
    from typer.testing import CliRunner

    from hocket.cli import app

    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    if result.exit_code:
        raise RuntimeError(f"status {result.exit_code}: {line}\n{result.output}")


def load_settings(block: Block) -> None:
    """Read a file of settings by what the command that it is for reads it by."""
    from hocket.fl.config import load_config
    from hocket.fl.photon.config import load_photon_config
    from hocket.fleet.config import load_fleet_config

    base = Path(block.part_of).read_text(encoding="utf-8") if block.part_of else ""
    path = Path(block.part_of).parent / "settings.toml" if block.part_of else Path("settings.toml")
    path = Path(block.folder) / path if block.folder else path
    path.write_text(f"{base}\n{block.text}", encoding="utf-8")
    loaders = {"federation": load_config, "run": load_photon_config, "fleet": load_fleet_config}
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    found = [load for section, load in loaders.items() if section in sections]
    if len(found) != 1:
        raise ValueError("whose settings are these? say `part of` which file they are")
    found[0](path)


def run_block(block: Block, names: dict[str, Any], shells: list[Shell]) -> None:
    """Run a block, or read it, according to its language."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    if block.language == "toml":
        load_settings(block)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "python":
        if not block.file:
            exec(compile(block.text, f"line {block.line}", "exec"), names)
    elif block.is_console:
        lines = [line.partition("  #")[0] for line in block.commands()]
        if all(line.startswith("hocket ") and not _FOR_A_SHELL.search(line) for line in lines):
            for line in lines:
                run_hocket(line)
            return
        if not shells:
            shells.append(Shell())
        shells[0].run("\n".join(lines) if block.language == "" else block.text)
    elif block.language not in SHOWN:
        raise ValueError(f"nobody knows what to do with a block of {block.language!r}")


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Run the page that is named."""
    page = Path(sys.argv[1]).read_text(encoding="utf-8")
    for port in ("8471", "8472"):
        page = page.replace(port, str(free_port()))
    names: dict[str, Any] = {"__name__": "__main__"}
    shells: list[Shell] = []
    sys.path.insert(0, "")
    try:
        for block in find_blocks(page):
            if block.is_left_out:
                continue
            try:
                run_block(block, names, shells)
            except Exception:  # noqa: BLE001 - whatever a page's code raises is its failure
                traceback.print_exc()
                sys.exit(f"{sys.argv[1]}:{block.line}: the block above did not run")
    finally:
        for shell in shells:
            shell.close()


if __name__ == "__main__":
    main()
