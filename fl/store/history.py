"""Every entry that federations leave: bytes under their digests, and a catalog of what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.store import layout
from hocket.fl.store.catalog import Entry, Parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Key
    from hocket.fl.store.catalog import Catalog, Statistics
    from hocket.fl.store.objects import Objects

GRACE_SECONDS = 3600.0


@dataclass(frozen=True)
class Damage:
    """An entry whose bytes are not there, or not those that were put.

    Attributes:
        key: Which entry.
        reason: What is wrong, in a sentence.
    """

    key: Key
    reason: str


@dataclass(frozen=True)
class History:
    """Keeps entries for good. May be used from several threads and processes at once.

    An entry is there once its bytes are, and then its row in the catalog: who is killed in between
    leaves bytes that no entry has, which ``collect_garbage`` deletes.

    Attributes:
        objects: Where bytes are.
        catalog: What they are.
        now: The time, in seconds since 1970.
    """

    objects: Objects
    catalog: Catalog
    now: Callable[[], float]

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; what the key held before is replaced, whole or not at all."""
        self.record(key, content)

    def get(self, key: Key) -> bytes:
        """Return the bytes, checked against their digest.

        Raises:
            KeyError: There are none.
            StoreError: They are not those that were put there, or are gone.
        """
        return bytes(self.view(key))

    def delete(self, key: Key) -> None:
        """Forget an entry; its bytes go with the next collection of garbage."""
        self.catalog.forget(key)

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        job, is_whole, _ = prefix.partition("/")
        entries = self.catalog.entries(job=job if is_whole else None)
        return [entry.key for entry in entries if str(entry.key).startswith(prefix)]

    def record(
        self,
        key: Key,
        content: bytes | memoryview,
        metrics: Mapping[str, float] | None = None,
        provenance: Mapping[str, str] | None = None,
        made_from: Mapping[Key, float] | None = None,
        statistics: Statistics | None = None,
    ) -> Entry:
        """Keep bytes and what is known of them.

        Args:
            key: What they are.
            content: The bytes.
            metrics: Numbers of the entry.
            provenance: Words of it.
            made_from: Entries it was made from, and their shares.
            statistics: What was worked out of it.

        Raises:
            KeyError: One of ``made_from`` is not there.
        """
        parents = [
            Parent(parent, self.catalog.entry(parent).digest, weight)
            for parent, weight in (made_from or {}).items()
        ]
        digest = self.objects.put(content)
        entry = Entry(
            key, digest, len(content), self.now(), dict(metrics or {}), dict(provenance or {})
        )
        self.catalog.record(entry, parents, statistics)
        if not self.objects.has(digest):
            # They were there when they were put, and a collection of garbage took them before the
            # entry was in the catalog.
            self.objects.put(content)
        return entry

    def record_arrays(self, key: Key, parameters: Parameters, **known: Any) -> Entry:
        """Keep arrays and what is known of them, as ``record`` does.

        Raises:
            KeyError: One of ``made_from`` is not there.
        """
        return self.record(key, layout.encode(parameters), **known)

    def view(self, key: Key) -> memoryview:
        """Return the bytes of an entry, checked against their digest and not copied.

        Raises:
            KeyError: There are none.
            StoreError: They are not those that were put there, or are gone.
        """
        return self.content(self.catalog.entry(key))

    def content(self, entry: Entry) -> memoryview:
        """Return the bytes that an entry had when it was looked up, as ``view`` does.

        Raises:
            StoreError: They are not those that were put there, or are gone.
        """
        try:
            return self.objects.get(entry.digest)
        except KeyError:
            raise StoreError(
                f"{entry.key}: its object {entry.digest} is gone from {self.objects.origin}"
            ) from None

    def arrays(self, key: Key) -> dict[str, NDArray[Any]]:
        """Return the arrays of an entry, read-only.

        Raises:
            KeyError: There is no such entry.
            StoreError: It holds no arrays, or was damaged.
        """
        return layout.view(self.view(key), str(key))

    def layer(self, key: Key, name: str) -> NDArray[Any]:
        """Return one array of an entry; only the index and its own bytes are read.

        These are not checked against the digest, which is of all bytes.

        Raises:
            KeyError: There is no such entry.
            ConfigError: It has no such array.
            StoreError: It holds no arrays.
        """
        entry = self.catalog.entry(key)
        head = self.objects.get_range(entry.digest, 0, min(layout.HEAD_BYTES, entry.num_bytes))
        front = self.objects.get_range(
            entry.digest, 0, min(layout.index_bytes(head, str(key)), entry.num_bytes)
        )
        layers = layout.read_index(front, entry.num_bytes, str(key))
        if name not in layers:
            raise ConfigError(f"{key}: has no array {name!r}; it has {', '.join(sorted(layers))}")
        wanted = layers[name]
        content = self.objects.get_range(entry.digest, wanted.start, wanted.end)
        return layout.view_layer(content, wanted, wanted.start)

    def verify(self, entries: Iterable[Entry] | None = None) -> list[Damage]:
        """Read all bytes and return what is damaged.

        Args:
            entries: Only these; by default all.
        """
        damages = []
        for entry in self.catalog.entries() if entries is None else entries:
            try:
                self.view(entry.key)
            except StoreError as error:
                damages.append(Damage(entry.key, str(error)))
        return damages

    def forget(self, keys: Sequence[Key]) -> int:
        """Forget entries and return how many were there."""
        return sum(self.catalog.forget(key) is not None for key in keys)

    def keep_rounds(self, job: str, num_rounds: int, kind: str | None = None) -> int:
        """Forget what is older than a job's last rounds, and return how many entries that were.

        See ``expired`` for the arguments.
        """
        return self.forget(self.expired(job, num_rounds, kind))

    def expired(self, job: str, num_rounds: int, kind: str | None = None) -> list[Key]:
        """Return the entries that are older than a job's last rounds.

        Args:
            job: Whose.
            num_rounds: How many of the last ones stay.
            kind: Only of entries of it.
        """
        if num_rounds < 1:
            raise ConfigError(f"want 1 or more rounds to keep, got {num_rounds}")
        entries = self.catalog.entries(job=job, kind=kind)
        last = max((entry.key.round for entry in entries), default=0)
        return [entry.key for entry in entries if entry.key.round <= last - num_rounds]

    def collect_garbage(self, grace_seconds: float = GRACE_SECONDS) -> tuple[int, int]:
        """Delete bytes that no entry has.

        Args:
            grace_seconds: Younger ones stay: their entry may be on its way.

        Returns:
            How many objects, and of how many bytes.
        """
        num_objects = freed_bytes = 0
        oldest = self.now() - grace_seconds
        for listed in list(self.objects.listing()):
            if listed.modified_seconds > oldest:
                continue
            with self.catalog.unused(listed.digest) as is_unused:
                if is_unused:
                    self.objects.delete(listed.digest)
                    num_objects += 1
                    freed_bytes += listed.num_bytes
        return num_objects, freed_bytes
