"""Text with something to learn, as shards, and the file of a small run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.photon.shards import write_shards

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[run]
name = "test"
rounds = 3
folder = "FOLDER"

[model]
layers = 1
width = 16
heads = 2
context = 16

[data]
folder = "shards"
clients = 2
partition = "by-source"

[training]
local-steps = 4
local-batch = 4
global-batch = 8
learning-rate = 0.01
warmup-steps = 2
decay-steps = 40
keep-optimizer = true

[server]
optimizer = "diloco"
scheme = "int4"
"""


def write_text(folder: Path) -> None:
    """Write shards of two sources, of 128 tokens."""
    generator = np.random.default_rng(0)
    texts = {
        name: ["".join(generator.choice(list(letters), 90)) for _ in range(60)]
        for name, letters in (("vowels", "aeiou "), ("others", "bcdfgh "))
    }
    write_shards(folder / "shards", texts, lambda text: list(text.encode()), 128, end_of_text=0)


def write_config(home: Path, name: str, *changes: tuple[str, str], more: str = "") -> Path:
    """Write the file of a run that goes to a folder of its name.

    Args:
        home: Where the shards are.
        name: Of the folder and of the file.
        changes: What is replaced by what.
        more: Sections that are added.
    """
    text = CONFIG.replace("FOLDER", name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = home / f"{name}.toml"
    path.write_text(text + more)
    return path
