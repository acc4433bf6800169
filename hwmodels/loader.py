"""Machines from TOML files: every key carries its unit, every mistake is named."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import textwrap
import tomllib
import typing
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.checks import shown
from hocket.hwmodels.errors import TargetError
from hocket.hwmodels.machine import (
    DmaEngine,
    HardwareModel,
    MatrixUnit,
    MemoryLevel,
    VectorUnit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_TARGETS = "hocket.hwmodels.targets"
_COLUMNS = 100
MAX_FILE_BYTES = 1 << 20
"""No description of a machine is longer."""
_TABLES: dict[str, type] = {
    "matrix_unit": MatrixUnit,
    "vector_unit": VectorUnit,
    "outer_memory": MemoryLevel,
    "on_chip_memory": MemoryLevel,
    "dma": DmaEngine,
}


def list_targets() -> tuple[str, ...]:
    """Return the names of the built-in machines, sorted."""
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in resources.files(_TARGETS).iterdir()
            if entry.name.endswith(".toml")
        )
    )


def load_target(name_or_path: str | Path) -> HardwareModel:
    """Load a machine by the name of a built-in one, or from a TOML file of yours.

    Anything with a path separator or the ending ``.toml`` is a file.

    Raises:
        TargetError: No such machine or file, or the description is wrong; the message names the
            file and the key.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or "\\" in text:
        return parse_target(_read(Path(name_or_path)), origin=str(name_or_path))
    if text not in list_targets():
        close = difflib.get_close_matches(text, list_targets(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TargetError(
            f"unknown target {text!r}{hint}; the built-in ones are {', '.join(list_targets())}; "
            "a file of your own must end in .toml"
        )
    source = resources.files(_TARGETS).joinpath(f"{text}.toml").read_text(encoding="utf-8")
    return parse_target(source, origin=f"{text}.toml")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise TargetError(f"target file {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise TargetError(f"target file {path}: cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise TargetError(
            f"target file {path}: has more than {MAX_FILE_BYTES:,} bytes, so it does not describe "
            "a machine"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise TargetError(f"target file {path}: cannot be read: {error}") from error


def parse_target(text: str, origin: str) -> HardwareModel:
    """Build a machine from TOML text; ``origin`` names it in errors.

    Raises:
        TargetError: The text is not TOML, or a key is missing, unknown or out of range.
    """
    try:
        fields = tomllib.loads(text)
    except ValueError as error:  # also of numbers with more digits than Python reads
        raise TargetError(f"{origin}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise TargetError(
            f"{origin}: not valid TOML: tables or lists are nested too deeply; a machine has "
            "tables of figures, one level deep"
        ) from error
    return target_from_dict(fields, origin)


def target_from_dict(fields: object, origin: str) -> HardwareModel:
    """Build a machine from nested dicts, as TOML or JSON give them.

    Raises:
        TargetError: A key is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(fields, dict):
        raise TargetError(f"{origin}: a machine must be a table, got {type(fields).__name__}")
    arguments = dict(fields)
    for table, kind in _TABLES.items():
        if table in arguments:
            arguments[table] = _build(kind, arguments[table], f"{origin}: [{table}]")
    machine: HardwareModel = _build(HardwareModel, arguments, origin)
    return machine


def target_to_dict(machine: HardwareModel) -> dict[str, Any]:
    """Return the nested dicts from which ``target_from_dict`` makes an equal machine."""
    return dataclasses.asdict(machine)


def figures_by_path(machine: HardwareModel) -> dict[str, Any]:
    """Return all fields by the paths of their keys, ``dma.latency_cycles``."""
    figures: dict[str, Any] = {}
    for key, value in target_to_dict(machine).items():
        if isinstance(value, dict):
            figures |= {f"{key}.{name}": figure for name, figure in value.items()}
        else:
            figures[key] = value
    return figures


def format_target(
    machine: HardwareModel, header: str = "", comments: Mapping[str, str] | None = None
) -> str:
    """Write a machine as TOML text, from which ``parse_target`` makes an equal one.

    Args:
        machine: What to write.
        header: Comment at the top of the text; its lines are paragraphs.
        comments: What to say of a key, by its path (``clock_hz``, ``dma.latency_cycles``), or of a
            table (``dma``).

    Raises:
        ValueError: A comment is about a key that there is not.
    """
    left = dict(comments or {})
    figures = target_to_dict(machine)
    tables = {key: value for key, value in figures.items() if isinstance(value, dict)}
    top = {key: value for key, value in figures.items() if key not in tables}
    lines = [line for paragraph in header.splitlines() for line in _comment_lines(paragraph)]
    lines += ["", *_figure_lines(top, "", left)]
    for name, table in tables.items():
        lines += ["", *_comment_lines(left.pop(name, "")), f"[{name}]"]
        lines += _figure_lines(table, f"{name}.", left)
    if left:
        raise ValueError(f"comments on keys that a machine has not: {', '.join(left)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _figure_lines(figures: dict[str, Any], prefix: str, comments: dict[str, str]) -> list[str]:
    """Return the lines of one table; comments that are used are taken out of ``comments``."""
    texts = {key: f"{key} = {_toml_value(value)}" for key, value in figures.items()}
    said = {key: _printable(comments.pop(prefix + key, "")) for key in texts}
    width = max((len(text) for key, text in texts.items() if said[key]), default=0)
    lines = []
    for key, text in texts.items():
        comment = said[key]
        beside = f"{text:<{width}}  # {comment}"
        if not comment:
            lines.append(text)
        elif len(beside) <= _COLUMNS:
            lines.append(beside)
        else:
            lines += [*_comment_lines(comment), text]
    return lines


def _comment_lines(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(_printable(text), _COLUMNS - 2)]


def _printable(text: str) -> str:
    """Return a text on one line, without what a TOML comment may not hold."""
    return "".join(mark if mark.isprintable() else "?" for mark in " ".join(text.split()))


def _toml_value(value: str | float) -> str:
    if isinstance(value, str):
        return f'"{"".join(map(_escape, value))}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:_}" if isinstance(value, int) else repr(value)


def _escape(mark: str) -> str:
    """Return a character as a basic string of TOML spells it."""
    if mark in '"\\':
        return f"\\{mark}"
    return mark if mark.isprintable() else f"\\U{ord(mark):08x}"


def _build(kind: type, fields: object, where: str) -> Any:
    if not isinstance(fields, dict):
        raise TargetError(f"{where}: must be a table, got {shown(fields)}")
    types = typing.get_type_hints(kind)
    for key in fields:
        if key not in types:
            raise TargetError(f"{where}: unknown key {shown(key)}{_suggest(key, types)}")
    missing = [key for key in types if key not in fields]
    if missing:
        raise TargetError(f"{where}: missing {', '.join(missing)}")
    arguments = {
        key: _convert(value, types[key], f"{where}: {key}") for key, value in fields.items()
    }
    try:
        return kind(**arguments)
    except ValueError as error:
        raise TargetError(f"{where}: {error}") from error


def _convert(value: object, wanted: type, where: str) -> object:
    if wanted is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise TargetError(f"{where}: want a finite number, got {shown(value)}") from error
    if type(value) is not wanted:
        raise TargetError(f"{where}: want {wanted.__name__}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise TargetError(f"{where}: want a finite number, got {value}")
    return value


def _suggest(key: str, known: dict[str, type]) -> str:
    """Say which key was probably meant; a wrong unit is the usual slip."""
    stems = {_stem(name): name for name in known}
    if _stem(key) in stems:
        return f"; this figure is wanted in another unit, as {stems[_stem(key)]!r}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"


# Endings that name a unit, ours and those people may reach for.
_UNIT_ENDING = re.compile(
    r"_(bytes|[kmg]?i?b|kilobytes|megabytes"
    r"|(bytes|[kmg]b)_per_second|[kmg]bps"
    r"|[kmg]?hz|cycles|ns|us|seconds|m?watts|mw|pj_per_(byte|bit))$"
)


def _stem(key: str) -> str:
    return _UNIT_ENDING.sub("", key)
