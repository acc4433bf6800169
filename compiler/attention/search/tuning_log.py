"""What searches found, kept in a file, so that the same search need not be made twice.

The file has one JSON object a line and is only ever appended to, so that several processes may use
it at once. A result counts for the same problem, machine, dataflow, objective and version alone.
Whoever can write to the file can at worst make us choose a worse tiling: what it holds is checked
like any input, and a tiling is built only if it is one of the space and fits the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from hocket.compiler.attention.tiling import Softmax, Split, Tiling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget, SearchResult
    from hocket.compiler.attention.search.space import TilingSpace

LOG_VARIABLE = "HOCKET_TUNING_LOG"
"""Environment variable that names the file; empty for none."""

MODEL_VERSION = 2
"""To be raised when another space, other programs or other costs make old results worth nothing."""

MAX_LINE_BYTES = 1 << 14
MAX_FILE_BYTES = 1 << 26
"""Of a longer file the newest part is read."""

_MAX_NUMBER = 1 << 63

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedResult:
    """What one search found.

    Attributes:
        tiling: The best tiling met.
        cycles, joules: What its program takes.
        is_optimal: Whether the search proved that no tiling of the space is better.
        evaluations, tasks: Its budget.
        searcher: Key of ``SEARCHERS``.
        seed: Of its chances.
        num_legal: Tilings of the space that fit the machine.
    """

    tiling: Tiling
    cycles: float
    joules: float
    is_optimal: bool
    evaluations: int
    tasks: int
    searcher: str
    seed: int
    num_legal: int


class TuningLog:
    """A file of search results."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Use a file, which need not be there yet."""
        self.path = Path(path).expanduser()
        self._state: tuple[int, int] | None = None
        self._results: dict[str, list[LoggedResult]] = {}

    def lookup(
        self,
        space: TilingSpace,
        objective: Objective,
        budget: Budget,
        *,
        searcher: str = "exhaustive",
        seed: int = 0,
    ) -> Iterator[LoggedResult]:
        """Give what a search would find, as far as the file knows; the newest answer first.

        It knows if a search of this space proved its result to be the best, or if the same searcher
        with the same seed had at least this budget. A later answer is there because an earlier one
        was not good enough, or turned out not to be true.
        """
        self._read()
        for result in reversed(self._results.get(_digest(space, objective), [])):
            has_enough = (
                (result.searcher, result.seed) == (searcher, seed)
                and result.evaluations >= min(budget.evaluations, _MAX_NUMBER - 1)
                and result.tasks >= min(budget.tasks, _MAX_NUMBER - 1)
            )
            if not (result.is_optimal or has_enough):
                continue
            if space.holds(result.tiling):
                yield result
                continue
            _log.warning(
                "%s: ignored a tiling that is not one of its space: %s", self.path, result.tiling
            )

    def record(
        self,
        space: TilingSpace,
        objective: Objective,
        budget: Budget,
        result: SearchResult,
        *,
        searcher: str = "exhaustive",
        seed: int = 0,
    ) -> None:
        """Add what a search found.

        A search that was held to a time is left out unless it proved its result to be the best:
        elsewhere the same time leads to another result. A file that cannot be written is no
        mishap, only logged.
        """
        if budget.seconds is not None and not result.is_optimal:
            return
        best = result.best
        fields = {
            "key": _digest(space, objective),
            "about": f"{space.problem}; {space.machine.name}; {result.dataflow}; {objective.name}",
            "tiling": {
                **dataclasses.asdict(best.tiling),
                "softmax": best.tiling.softmax.value,
                "split": best.tiling.split.value,
            },
            "cycles": best.estimate.cycles,
            "joules": best.estimate.joules,
            "is_optimal": result.is_optimal,
            "evaluations": min(budget.evaluations, _MAX_NUMBER - 1),
            "tasks": min(budget.tasks, _MAX_NUMBER - 1),
            "searcher": searcher,
            "seed": seed,
            "num_legal": result.num_legal,
        }
        try:
            self._append(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            _log.warning("the tuning log %s cannot be written: %s", self.path, error)

    def _append(self, line: bytes) -> None:
        """Add a line in one piece, so that lines of several processes do not mix."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o600)
        try:
            size = os.lseek(file, 0, os.SEEK_END)
            if size:
                os.lseek(file, size - 1, os.SEEK_SET)
                if os.read(file, 1) != b"\n":
                    line = b"\n" + line  # whoever wrote last was cut short
            os.write(file, line)
        finally:
            os.close(file)

    def _read(self) -> None:
        """Read the file, unless it is as it was."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                state = (status.st_mtime_ns, status.st_size)
                if state == self._state:
                    return
                skipped = max(status.st_size - MAX_FILE_BYTES, 0)
                file.seek(skipped)
                content = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            self._results, self._state = {}, None
            return
        except OSError as error:
            _log.warning("the tuning log %s cannot be read: %s", self.path, error)
            self._results, self._state = {}, None
            return
        self._results, self._state = {}, state
        lines = content.split(b"\n")
        if skipped:
            _log.warning("%s: only the newest %d bytes are read", self.path, MAX_FILE_BYTES)
            lines[0] = b""  # the end of a line
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                key, result = _parse(line)
            except (ValueError, RecursionError) as error:
                where = f"line {number}" + (f" of those after byte {skipped}" if skipped else "")
                _log.warning("%s, %s: skipped: %s", self.path, where, error)
                continue
            self._results.setdefault(key, []).append(result)


def default_path() -> Path | None:
    """Return where users' tuning log is: by ``HOCKET_TUNING_LOG``, or in their cache folder.

    Returns:
        None if the variable is set and empty: no log is wanted.
    """
    named = os.environ.get(LOG_VARIABLE)
    if named is None:
        return Path(platformdirs.user_cache_dir("hocket")) / "tuning.jsonl"
    return Path(named) if named else None


def _digest(space: TilingSpace, objective: Objective) -> str:
    """Return what tells apart results that have nothing to do with each other."""
    parts = (space.problem, space.machine, space.dataflow, objective)
    text = "\n".join([f"hocket {version('hocket')}, model {MODEL_VERSION}", *map(repr, parts)])
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: bytes) -> tuple[str, LoggedResult]:
    """Return the key and the result of a line that nobody has checked.

    Raises:
        ValueError: It is not what we write.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"it has {len(line)} bytes")
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("it is not an object")
    return _field(fields, "key", str), LoggedResult(
        tiling=_tiling(_field(fields, "tiling", dict)),
        cycles=_number(fields, "cycles"),
        joules=_number(fields, "joules"),
        is_optimal=_field(fields, "is_optimal", bool),
        evaluations=_count(fields, "evaluations"),
        tasks=_count(fields, "tasks"),
        searcher=_field(fields, "searcher", str),
        seed=_count(fields, "seed"),
        num_legal=_count(fields, "num_legal"),
    )


def _tiling(fields: dict[str, Any]) -> Tiling:
    names = [field.name for field in dataclasses.fields(Tiling)]
    if sorted(fields) != sorted(names):
        raise ValueError(f"tiling has the fields {', '.join(sorted(fields))}")
    numbers = {name: _count(fields, name) for name in names if name not in ("softmax", "split")}
    return Tiling(
        **numbers,
        softmax=Softmax(_field(fields, "softmax", str)),
        split=Split(_field(fields, "split", str)),
    )


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value: int = _field(fields, name, int)
    if not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if type(value) is int:
        return float(_count(fields, name))
    number: float = _field(fields, name, float)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} is {number}")
    return number
