"""The journal: every operation with its answer, on disk before the answer is given.

One SQLite file, opened by one process at a time. What the manager knows is never written as tables
beside it: a restart takes the last snapshot and asks again what was asked since. Each answer must
be the one that was given then, or the service does not start: a device could be given twice.
"""

from __future__ import annotations

import json
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING

from hocket.fl.service.errors import ConflictError, RefusedError
from hocket.fl.venn.service.answers import Problem, to_json
from hocket.fl.venn.service.errors import REFUSALS, JournalError
from hocket.fl.venn.service.manager import Caller, ResourceManager
from hocket.fl.venn.service.operations import DAY_SECONDS, OPERATION, cost_of
from hocket.fl.venn.service.snapshot import read_snapshot, write_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.fl.venn.policies import Policy
    from hocket.fl.venn.service.operations import Operation

FORMAT = 1
APPLICATION_ID = 0x484B5456
"""Says to tools what the file is: "HKTV"."""

SNAPSHOT_COST = 200_000
"""After operations on so many devices a snapshot is taken: a restart has no more to do again."""

KEY_SECONDS = DAY_SECONDS
"""For so long a key that comes again gets the answer that it got."""

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE log (
    sequence INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    caller TEXT NOT NULL,
    is_operator INTEGER NOT NULL,
    key TEXT,
    operation TEXT NOT NULL,
    refusal TEXT,
    answer BLOB NOT NULL
);
CREATE UNIQUE INDEX log_key ON log (caller, key) WHERE key IS NOT NULL;
CREATE TABLE snapshot (sequence INTEGER PRIMARY KEY, content BLOB NOT NULL);
"""
_INSERT = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Journal:
    """A manager that remembers.

    Not for several threads at once, but ``commit`` may run in another while nobody else calls.

    Args:
        path: The database, made if it is not there.
        policy, seed: Of the manager; those of a database that is there already must be the same.
        is_synced: Whether ``commit`` waits for the disk. Without, what was answered outlives the
            process, but not the machine.
        snapshot_cost: After operations on so many devices, or on as many as are at work if those
            are more, a snapshot is taken.

    Raises:
        JournalError: The file is another's, is in use, or its answers do not come out again.
    """

    def __init__(
        self,
        path: Path | str,
        policy: Policy,
        seed: int = 0,
        *,
        is_synced: bool = True,
        snapshot_cost: int = SNAPSHOT_COST,
    ) -> None:
        self._path = path
        self._manager = ResourceManager(policy, seed)
        self._sequence = 0
        self._since_snapshot = 0
        self._snapshot_cost = snapshot_cost
        self._connection = _connect(path)
        try:
            made_by = f"{policy!r}, seed {seed}, Hocket {version('hocket')}"
            self._open(made_by, is_synced=is_synced)
            self._restore()
            self._replay()
        except BaseException:
            self._connection.close()
            raise

    @property
    def manager(self) -> ResourceManager:
        """What the journal is of; to be read only."""
        return self._manager

    @property
    def num_since_snapshot(self) -> int:
        """Devices of operations that a restart would do again."""
        return self._since_snapshot

    def perform(
        self, now: float, caller: Caller, operation: Operation, key: str | None = None
    ) -> bytes:
        """Do what is asked and write it down; it is safe after ``commit``.

        Args:
            now: The time, in seconds since 1970.
            caller: Who asks.
            operation: What is asked.
            key: Of the question: the same key with the same operation gets the same answer, and
                nothing is done again.

        Returns:
            The answer as JSON.

        Raises:
            RefusedError: It may not be, or the key was another operation's. That, too, is kept.
        """
        text = operation.model_dump_json()
        if key is not None:
            row = self._connection.execute(
                "SELECT operation, refusal, answer FROM log WHERE caller = ? AND key = ?",
                (caller.name, key),
            ).fetchone()
            if row is not None:
                if row[0] != text:
                    raise ConflictError(f"key {key!r} was used for something else")
                return _say_again(row[1], row[2])
        now = max(now, self._manager.time)
        refusal, answer = self._ask(now, caller, operation)
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._sequence += 1
        self._since_snapshot += cost_of(operation)
        self._connection.execute(
            _INSERT,
            (self._sequence, now, caller.name, caller.is_operator, key, text, refusal, answer),
        )
        return _say_again(refusal, answer)

    def commit(self) -> None:
        """Put on disk what was done since the last time, at times with a snapshot."""
        if self._since_snapshot >= max(self._snapshot_cost, self._manager.num_at_work):
            self._take_snapshot()
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """End in good order: a restart has nothing to ask again."""
        if self._since_snapshot:
            self._take_snapshot()
        self.commit()
        self._connection.close()

    def abandon(self) -> None:
        """Close the file as if the process had been killed: what is not committed is lost."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._connection.close()

    def _ask(self, now: float, caller: Caller, operation: Operation) -> tuple[str | None, bytes]:
        """Return what is refused, if it is, and what is answered."""
        try:
            return None, to_json(self._manager.perform(now, caller, operation))
        except RefusedError as error:
            return type(error).__name__, to_json(Problem(str(error)))

    def _open(self, made_by: str, *, is_synced: bool) -> None:
        connection = self._connection
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("INSERT INTO about VALUES ('policy', ?)", (made_by,))
            self._check(made_by)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'OFF'}")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(f"{self._path}: another process serves it") from error
            raise JournalError(f"{self._path}: cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self._path}: is no database: {error}") from error

    def _check(self, made_by: str) -> None:
        execute = self._connection.execute
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise JournalError(f"{self._path}: is a database of something else")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise JournalError(f"{self._path}: has format {version}, this Hocket has {FORMAT}")
        found = execute("SELECT value FROM about WHERE name = 'policy'").fetchone()[0]
        if found != made_by:
            raise JournalError(
                f"{self._path}: was made with {found}, not {made_by}; "
                "serve it as it was, or begin with another file"
            )

    def _take_snapshot(self) -> None:
        """Keep the manager, and of what led to it only keys that may come again."""
        execute = self._connection.execute
        if not self._connection.in_transaction:
            execute("BEGIN")
        execute("DELETE FROM snapshot")
        content = write_snapshot(self._manager)
        execute("INSERT INTO snapshot VALUES (?, ?)", (self._sequence, content))
        execute("DELETE FROM log WHERE time < ?", (self._manager.time - KEY_SECONDS,))
        self._since_snapshot = 0

    def _restore(self) -> None:
        row = self._connection.execute("SELECT sequence, content FROM snapshot").fetchone()
        if row is not None:
            try:
                self._sequence, self._manager = row[0], read_snapshot(row[1])
            except JournalError as error:
                raise JournalError(f"{self._path}: {error}") from error

    def _replay(self) -> None:
        rows = self._connection.execute(
            "SELECT sequence, time, caller, is_operator, operation, refusal, answer FROM log "
            "WHERE sequence > ? ORDER BY sequence",
            (self._sequence,),
        )
        for sequence, time, name, is_operator, text, refusal, answer in rows:
            caller = Caller(name, bool(is_operator))
            operation = OPERATION.validate_json(text)
            found = self._ask(time, caller, operation)
            if found != (refusal, answer):
                raise JournalError(
                    f"{self._path}: operation {sequence} has another answer than it had; serve it "
                    "with the software that wrote it"
                )
            self._sequence = sequence
            self._since_snapshot += cost_of(operation)


def _connect(path: Path | str) -> sqlite3.Connection:
    try:
        # Transactions are begun and ended by the journal, not by the library.
        return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise JournalError(f"{path}: cannot be opened: {error}") from error


def _say_again(refusal: str | None, answer: bytes) -> bytes:
    if refusal is not None:
        raise REFUSALS[refusal](json.loads(answer)["error"])
    return answer
