"""The code blocks of a page: what each is, and what the page says about it in comments.

A comment of HTML right above a fence is for this:

- ``<!-- not run: REASON -->`` leaves a block out,
- ``<!-- run by tests/... -->`` names the test that runs it in its own way,
- ``<!-- file: NAME -->`` has it saved under a name in the page's folder,
- ``<!-- in: FOLDER -->`` says where a file of settings belongs,
- ``<!-- part of: NAME -->`` says which file of settings it may be added to.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

import click
import typer.main

COMMANDS = ("hocket", "python", "curl", "make", "pip", "git", "cc", "scp", "cp", "python3")
"""How a line begins that a reader is to type."""

SHOWN = ("text", "ini")
"""Languages of what is to be looked at: figures, output, files of other programs."""

_FENCE = re.compile(
    r"^(?P<comments>(?:<!--.*?-->\n)*)```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_FIELDS = {
    "not run": "not_run",
    "run by": "run_by",
    "file": "file",
    "in": "folder",
    "part of": "part_of",
}
_COMMENT = re.compile(r"<!-- (not run|run by|file|in|part of):? (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: As the fence says; empty for a console.
        text: What is in it.
        line: Of the fence, from 1.
        not_run: Why it is left out, if it is.
        run_by: The test that runs it instead, if one does.
        file: What it is saved as, if it is.
        folder: Where a file of settings belongs, if not in the page's folder.
        part_of: The file of settings that it may be added to.
    """

    language: str
    text: str
    line: int
    not_run: str = ""
    run_by: str = ""
    file: str = ""
    folder: str = ""
    part_of: str = ""

    @property
    def is_console(self) -> bool:
        """Whether it has commands."""
        return self.language in ("", "sh", "bash", "console")

    @property
    def is_left_out(self) -> bool:
        """Whether nothing in it is run here."""
        return bool(self.not_run or self.run_by)

    def commands(self) -> list[str]:
        """Return the lines to type, continued ones joined, comments left."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def find_blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order.

    Raises:
        ValueError: A fence is not closed, or begins in the middle of a line.
    """
    blocks = []
    for found in _FENCE.finditer(page):
        notes = {_FIELDS[what]: text for what, text in _COMMENT.findall(found["comments"])}
        line = page.count("\n", 0, found.start("language")) + 1
        blocks.append(Block(found["language"], found["text"], line, **notes))
    if 2 * len(blocks) != len(re.findall(r"^\s*```", page, re.M)):
        raise ValueError("a fence is not closed, or not at the beginning of a line")
    return blocks


def misused_options(line: str) -> str:
    """Return what is wrong with a line that calls ``hocket``, by the command's own parser.

    Names of commands and options are checked, and that options have values; not what values are.
    """
    from hocket.cli import app

    if not line.startswith("hocket "):
        return ""
    words = shlex.split(line, comments=True)
    end = next((n for n, word in enumerate(words) if word in ("|", ">", "&", "&&", ";")), None)
    words = words[1:end]
    command: Any = typer.main.get_command(app)
    path = ["hocket"]
    while True:
        context = click.Context(command, info_name=path[-1], help_option_names=["-h", "--help"])
        try:
            _, words, _ = command.make_parser(context).parse_args(list(words))
        except click.UsageError as error:
            return f"{' '.join(path)}: {error.format_message()}"
        if not hasattr(command, "commands"):
            return ""
        if not words or words[0].startswith("["):
            return ""
        if words[0] not in command.commands:
            return f"{' '.join(path)}: no command {words[0]!r}"
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
