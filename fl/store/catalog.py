"""What is known of every entry without opening it: SQLite, one transaction an entry."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.store import Key

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

FORMAT = 1
MEMORY = ":memory:"
_CACHE_BYTES = 32 << 20

_SCHEMA = """
CREATE TABLE entries (
    job TEXT NOT NULL, round INTEGER NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
    digest TEXT NOT NULL, num_bytes INTEGER NOT NULL, created_seconds REAL NOT NULL,
    metrics TEXT NOT NULL, provenance TEXT NOT NULL,
    PRIMARY KEY (job, round, device, kind)
) WITHOUT ROWID;
CREATE INDEX entries_by_digest ON entries (digest);
CREATE INDEX entries_by_device ON entries (job, device, kind, round);
CREATE TABLE lineage (
    job TEXT NOT NULL, round INTEGER NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
    parent TEXT NOT NULL, parent_digest TEXT NOT NULL, weight REAL NOT NULL,
    PRIMARY KEY (job, round, device, kind, parent)
) WITHOUT ROWID;
CREATE INDEX lineage_by_parent ON lineage (parent);
CREATE TABLE statistics (
    job TEXT NOT NULL, round INTEGER NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
    num_numbers INTEGER NOT NULL, sketch BLOB NOT NULL,
    PRIMARY KEY (job, round, device, kind)
) WITHOUT ROWID;
CREATE TABLE products (
    job TEXT NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL,
    one TEXT NOT NULL, other TEXT NOT NULL, product REAL NOT NULL,
    PRIMARY KEY (job, round, kind, one, other)
) WITHOUT ROWID;
"""
_DIGEST_OF = "SELECT digest FROM entries WHERE job = ? AND round = ? AND device = ? AND kind = ?"
_FORGET = (
    "DELETE FROM entries WHERE job = ? AND round = ? AND device = ? AND kind = ?",
    "DELETE FROM lineage WHERE job = ? AND round = ? AND device = ? AND kind = ?",
    "DELETE FROM statistics WHERE job = ? AND round = ? AND device = ? AND kind = ?",
)


@dataclass(frozen=True)
class Entry:
    """What is known of an entry.

    Attributes:
        key: What it is.
        digest: Of its bytes, SHA-256 in hexadecimal.
        num_bytes: Of it.
        created_seconds: When it was put, since 1970.
        metrics: Numbers by name, such as ``accuracy``, ``num_examples``.
        provenance: Words by name, such as the artifact's digest and the version of the code.
    """

    key: Key
    digest: str
    num_bytes: int
    created_seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """What an entry was made from.

    Attributes:
        key: Which entry.
        digest: Of its bytes at the time.
        weight: Its share.
    """

    key: Key
    digest: str
    weight: float


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was worked out of an update when it came.

    Attributes:
        num_numbers: Of the update.
        sketch: ``[width]`` float32: a linear sketch, whose products are near the updates' own.
        products: With the updates of its round that came before, and with itself: its squared
            length. By device.
    """

    num_numbers: int
    sketch: NDArray[np.float32]
    products: Mapping[str, float]


class Catalog:
    """Knows entries. May be used from several threads at once, and read by other processes.

    Args:
        path: Of the database, which is made if it is not there; ``":memory:"`` for none.

    Raises:
        StoreError: The file is no catalog, or one of a later version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._origin = str(path)
        if self._origin != MEMORY:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(
                path, timeout=30, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            # A commit is on the disk before a put is answered.
            self._database.execute("PRAGMA synchronous = FULL")
            # Sketches of some rounds, which the system would read anew where memory is short.
            self._database.execute(f"PRAGMA cache_size = -{_CACHE_BYTES >> 10}")
            with self._transaction():
                self._prepare()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: cannot be opened to be written: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: is no catalog: {error}") from error

    def _prepare(self) -> None:
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise StoreError(
                f"{self._origin}: is a catalog of version {found}, and this is version {FORMAT}"
            )

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException as error:
                # A full disk has rolled back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise StoreError(f"{self._origin}: cannot be written: {error}") from error
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, closing(self._database.execute(statement, values)) as cursor:
            return cursor.fetchall()

    def record(
        self,
        entry: Entry,
        parents: Sequence[Parent] = (),
        statistics: Statistics | None = None,
    ) -> str | None:
        """Keep what is known of an entry, all of it or nothing.

        Returns:
            The digest that its key had before, if it had one.
        """
        key = entry.key
        names = (key.job, key.round, key.device, key.kind)
        with self._transaction():
            before = self._rows(_DIGEST_OF, names)
            self._forget(key)
            self._database.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *names,
                    entry.digest,
                    entry.num_bytes,
                    entry.created_seconds,
                    json.dumps(dict(entry.metrics), sort_keys=True),
                    json.dumps(dict(entry.provenance), sort_keys=True),
                ),
            )
            self._database.executemany(
                "INSERT INTO lineage VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*names, str(each.key), each.digest, each.weight) for each in parents],
            )
            if statistics is not None:
                sketch = np.ascontiguousarray(statistics.sketch, np.float32)
                self._database.execute(
                    "INSERT INTO statistics VALUES (?, ?, ?, ?, ?, ?)",
                    (*names, statistics.num_numbers, sketch.tobytes()),
                )
                self._database.executemany(
                    "INSERT INTO products VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (key.job, key.round, key.kind, *sorted((key.device, other)), product)
                        for other, product in statistics.products.items()
                    ],
                )
        return before[0][0] if before else None

    def forget(self, key: Key) -> str | None:
        """Forget an entry and return the digest it had, if it was there."""
        with self._transaction():
            names = (key.job, key.round, key.device, key.kind)
            before = self._rows(_DIGEST_OF, names)
            self._forget(key)
        return before[0][0] if before else None

    def _forget(self, key: Key) -> None:
        names = (key.job, key.round, key.device, key.kind)
        for statement in _FORGET:
            self._database.execute(statement, names)
        self._database.execute(
            "DELETE FROM products WHERE job = ? AND round = ? AND kind = ? AND ? IN (one, other)",
            (key.job, key.round, key.kind, key.device),
        )

    def __contains__(self, key: Key) -> bool:
        return bool(self._rows(_DIGEST_OF, (key.job, key.round, key.device, key.kind)))

    def entry(self, key: Key) -> Entry:
        """Return what is known of an entry.

        Raises:
            KeyError: There is none.
        """
        names = (key.job, key.round, key.device, key.kind)
        statement = "SELECT * FROM entries WHERE job = ? AND round = ? AND device = ? AND kind = ?"
        rows = self._rows(statement, names)
        if not rows:
            raise KeyError(key)
        return _entry(rows[0])

    def entries(
        self,
        job: str | None = None,
        rounds: tuple[int, int] | None = None,
        device: str | None = None,
        kind: str | None = None,
    ) -> list[Entry]:
        """Return entries in the order of their keys.

        Args:
            job, device, kind: Only those of it.
            rounds: Only those from the first to the last, both included.
        """
        terms = {"job = ?": job, "device = ?": device, "kind = ?": kind}
        given = {term: value for term, value in terms.items() if value is not None}
        values: list[Any] = list(given.values())
        if rounds is not None:
            given["round BETWEEN ? AND ?"] = ""
            values += rounds
        # Only words of this function: values are bound.
        clause = " AND ".join(given) or "TRUE"
        statement = f"SELECT * FROM entries WHERE {clause} ORDER BY job, round, device, kind"  # noqa: S608
        return [_entry(row) for row in self._rows(statement, values)]

    def rounds(self, job: str, kind: str, device: str | None = None) -> list[int]:
        """Return the rounds in which a job, or a device of it, has entries of a kind, ascending."""
        statement = (
            "SELECT DISTINCT round FROM entries WHERE job = ? AND kind = ? AND device = ? "
            "ORDER BY round"
        )
        if device is None:
            statement = statement.replace("AND device = ? ", "")
        values = [job, kind] if device is None else [job, kind, device]
        return [row[0] for row in self._rows(statement, values)]

    def parents(self, key: Key) -> list[Parent]:
        """Return what an entry was made from, in the order of the keys."""
        names = (key.job, key.round, key.device, key.kind)
        statement = (
            "SELECT parent, parent_digest, weight FROM lineage "
            "WHERE job = ? AND round = ? AND device = ? AND kind = ? ORDER BY parent"
        )
        rows = self._rows(statement, names)
        return [Parent(Key.parse(parent), digest, weight) for parent, digest, weight in rows]

    def children(self, key: Key) -> list[Key]:
        """Return the entries that were made from one, in order."""
        statement = (
            "SELECT job, round, device, kind FROM lineage WHERE parent = ? "
            "ORDER BY job, round, device, kind"
        )
        return [Key(*row) for row in self._rows(statement, (str(key),))]

    def products(
        self, job: str, round_number: int, kind: str, devices: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the products of a round's updates with each other.

        Returns:
            ``[devices, devices]``, in the order given; NaN where a product is not known.
        """
        places = {device: place for place, device in enumerate(devices)}
        found = np.full((len(devices), len(devices)), np.nan)
        statement = (
            "SELECT one, other, product FROM products WHERE job = ? AND round = ? AND kind = ?"
        )
        for one, other, product in self._rows(statement, (job, round_number, kind)):
            if one in places and other in places:
                found[places[one], places[other]] = found[places[other], places[one]] = product
        return found

    def sketches(
        self, job: str, round_number: int, kind: str, devices: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the sketches of a round's updates, ``[devices, width]``, in the order given.

        Raises:
            KeyError: None was made of one.
        """
        statement = "SELECT device, sketch FROM statistics WHERE job = ? AND round = ? AND kind = ?"
        found = dict(self._rows(statement, (job, round_number, kind)))
        for device in devices:
            if device not in found:
                raise KeyError(Key(job, round_number, device, kind))
        return np.stack([np.frombuffer(found[device], np.float32) for device in devices])

    @contextmanager
    def unused(self, digest: str) -> Iterator[bool]:
        """Tell whether no entry has these bytes, and let none be recorded meanwhile."""
        with self._transaction():
            statement = "SELECT 1 FROM entries WHERE digest = ? LIMIT 1"
            yield not self._rows(statement, (digest,))

    def select(self, statement: str, max_rows: int = 10_000) -> tuple[list[str], list[Any]]:
        """Answer a question in SQL, which cannot change anything.

        Args:
            statement: A SELECT over ``entries``, ``lineage``, ``statistics``, ``products``.
            max_rows: Of the answer.

        Returns:
            The names of the columns, and the rows.

        Raises:
            ConfigError: It is no such statement, or has more rows.
        """
        with self._lock:
            self._database.set_authorizer(_only_reading)
            try:
                with closing(self._database.execute(statement)) as cursor:
                    rows = cursor.fetchmany(max_rows + 1)
                    names = [column[0] for column in cursor.description or ()]
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise ConfigError(f"cannot answer {statement!r}: {error}") from error
            finally:
                self._database.set_authorizer(None)
        if len(rows) > max_rows:
            raise ConfigError(f"{statement!r} has more than {max_rows} rows; add a LIMIT")
        return names, rows


_READS = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)


def _only_reading(action: int, *_: str | None) -> int:
    # Functions read; the one that would load code is off unless it is switched on.
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


def _entry(row: Sequence[Any]) -> Entry:
    job, number, device, kind, digest, size, created, metrics, provenance = row
    return Entry(
        Key(job, number, device, kind),
        digest,
        size,
        created,
        json.loads(metrics),
        json.loads(provenance),
    )
