"""The text of a kernel's module around the lines of its function, and what it is known by."""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite
import numba

from hocket.runtime.kernels import (
    backward_tiles,
    decode_products,
    decode_softmax,
    decode_state,
    elementary,
    lanes,
    mask_gradients,
    masks,
    matrix,
    score_gradients,
    shuffles,
    storage,
    tile,
    transposes,
    vector,
    work,
    x86,
)
from hocket.runtime.kernels.plan import ARGUMENT_NAMES, REAL_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.runtime.cpu import CpuFeatures

_TILES = (
    backward_tiles,
    decode_products,
    decode_softmax,
    mask_gradients,
    masks,
    matrix,
    score_gradients,
    transposes,
    vector,
    work,
)
_INTRINSICS = (decode_state, elementary, lanes, shuffles, storage, tile, x86, *_TILES)

_WIDTH = 100
_DECORATOR = '@njit(void(intp, intp, intp), nogil=True, cache=True, error_model="numpy")'


@dataclass(frozen=True)
class KernelSource:
    """Text of a Numba module.

    Attributes:
        text: The module.
        digest: Hexadecimal SHA-256 of all that the compiled code depends on: the text, the
            source of the tiles it calls, the versions of the compilers, and the CPU.
        entry_names: Functions in it that are called from outside.
    """

    text: str
    digest: str
    entry_names: tuple[str, ...]

    @property
    def plain_text(self) -> str:
        """The text without the line that has Numba compile it for this process."""
        return self.text.replace(f"{_DECORATOR}\n", "")


def make_source(
    title: Sequence[str],
    tiles: Sequence[str],
    entry_name: str,
    body: Sequence[str],
    cpu: CpuFeatures,
    argument_names: Sequence[str] = ARGUMENT_NAMES,
    real_names: Sequence[str] = REAL_NAMES,
) -> KernelSource:
    """Put the text of a module together.

    Args:
        title: Lines of its docstring.
        tiles: Lines that name the tiles it calls.
        entry_name: Name of its function.
        body: Lines of that function. What they use of its arguments is read before them.
        cpu: The CPU that it is written for.
        argument_names: Names of the arguments, in the order of the array that holds them.
        real_names: Those of them that are float64, the others being int64.
    """
    lines = [
        '"""Attention kernel, written by hocket.runtime.kernels.generator; edits are not kept.',
        "",
        *title,
        '"""',
        "",
        "from math import inf",
        "",
        "from numba import intp, njit, void",
        "",
        # In parentheses, as a long line is wrapped.
        f"from hocket.runtime.kernels import ({', '.join(_modules(tiles))})",
        "",
        "load_size = work.load_size()",
        "load_real = work.load_real()",
        "take_item = work.take_item()",
        *tiles,
        "",
        "",
        _DECORATOR,
        f"def {entry_name}(arguments, scratch, counter):",
        *indent(1, _argument_lines(body, argument_names, real_names)),
        *indent(1, body),
        "",
    ]
    text = "\n".join(part for line in lines for part in _wrapped(line))
    digest = hashlib.sha256()
    for part in (_toolchain_digest(), cpu.cache_key, text):
        digest.update(hashlib.sha256(part.encode()).digest())
    return KernelSource(text, digest.hexdigest(), (entry_name,))


def indent(levels: int, lines: Sequence[str]) -> list[str]:
    """Return lines of Python moved in by so many levels."""
    return [" " * 4 * levels + line for line in lines]


def _modules(tiles: Sequence[str]) -> list[str]:
    """Return the modules that lines name tiles of."""
    names = [module.__name__.rsplit(".", 1)[1] for module in _TILES]
    return [name for name in names if name == "work" or f"= {name}." in "\n".join(tiles)]


def _wrapped(line: str) -> list[str]:
    """Return a line as lines of readable length; those that are longer are calls."""
    margin = " " * (len(line) - len(line.lstrip()) + 8)
    return textwrap.wrap(
        line,
        width=_WIDTH,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
        subsequent_indent=margin,
    ) or [line]


def _argument_lines(
    body: Sequence[str], argument_names: Sequence[str], real_names: Sequence[str]
) -> list[str]:
    used = set(re.findall(r"[a-z_]+", "\n".join(body)))
    return [
        f"{name} = {'load_real' if name in real_names else 'load_size'}(arguments, {place})"
        for place, name in enumerate(argument_names)
        if name in used
    ]


@functools.cache
def _toolchain_digest() -> str:
    """Return a digest of what turns text into code and is not in the text."""
    digest = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for module in _INTRINSICS:
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return digest.hexdigest()
