"""Text as tokens on disk: shards that are mapped into memory, and read on from any place.

A folder holds ``manifest.json`` and a file of little-endian whole numbers for each shard. A source
is a kind of text; a part of its documents is held out. Sequences are cut from shards, each token in
one of them, and given to clients by their number: where a client stands is one number, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.data import Examples
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

MANIFEST = "manifest.json"
TRAIN, HELD_OUT = "train", "held-out"
SHARD_TOKENS = 1 << 22
_VERSION = 1


def write_shards(
    folder: str | os.PathLike[str],
    documents: Mapping[str, Iterable[str]],
    encode: Callable[[str], Sequence[int]],
    vocabulary: int,
    *,
    end_of_text: int,
    held_out_every: int = 20,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenShards:
    """Write documents as tokens; the manifest comes last, so that a folder with one is whole.

    Args:
        folder: Made if it is not there.
        documents: By source. Every so-manieth is held out.
        encode: Makes tokens of a document.
        vocabulary: Tokens there are.
        end_of_text: Token that comes after each document.
        held_out_every: Documents for each that is held out.
        shard_tokens: Tokens of a shard, roughly: documents are not cut.

    Raises:
        ConfigError: A token is none of the vocabulary, or a source is without text.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
    sources: dict[str, Any] = {}
    for source in sorted(documents):
        writers = {part: _Writer(folder, f"{source}.{part}", dtype) for part in (TRAIN, HELD_OUT)}
        for number, document in enumerate(documents[source]):
            tokens = np.array([*encode(document), end_of_text], np.int64)
            if tokens.min() < 0 or tokens.max() >= vocabulary:
                raise ConfigError(f"source {source!r}: tokens are not all below {vocabulary}")
            is_held_out = number % held_out_every == held_out_every - 1
            writers[HELD_OUT if is_held_out else TRAIN].add(tokens, shard_tokens)
        sources[source] = {part: writer.finish() for part, writer in writers.items()}
        if not sources[source][TRAIN] or not sources[source][HELD_OUT]:
            raise ConfigError(f"source {source!r}: want {held_out_every} documents or more")
    manifest = {
        "version": _VERSION,
        "vocabulary": vocabulary,
        "dtype": dtype.str,
        "sources": sources,
    }
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    return TokenShards(str(folder))


class _Writer:
    """Writes the shards of a source's part."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self._waiting: list[NDArray[np.int64]] = []
        self._written: list[dict[str, Any]] = []

    def add(self, tokens: NDArray[np.int64], shard_tokens: int) -> None:
        self._waiting.append(tokens)
        if sum(map(len, self._waiting)) >= shard_tokens:
            self._write()

    def finish(self) -> list[dict[str, Any]]:
        if self._waiting:
            self._write()
        return self._written

    def _write(self) -> None:
        tokens = np.concatenate(self._waiting).astype(self._dtype)
        path = self._folder / f"{self._name}.{len(self._written):05d}.tokens"
        path.write_bytes(tokens.tobytes())
        digest = hashlib.sha256(tokens.tobytes()).hexdigest()
        self._written.append({"file": path.name, "tokens": len(tokens), "sha256": digest})
        self._waiting = []


@dataclass(frozen=True)
class TokenShards:
    """A folder of shards. Picklable: other processes read the files themselves.

    Attributes:
        folder: That ``write_shards`` wrote.
    """

    folder: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the folder holds.

        Raises:
            ConfigError: There is none, or it is of another version.
        """
        path = Path(self.folder) / MANIFEST
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; `hocket photon data --folder {self.folder}` makes "
                "shards of real text"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path}: is damaged: {error}") from error
        if found.get("version") != _VERSION:
            raise ConfigError(f"{path}: want version {_VERSION}, got {found.get('version')}")
        return found

    @property
    def vocabulary(self) -> int:
        """Tokens there are."""
        return int(self.manifest["vocabulary"])

    @property
    def sources(self) -> list[str]:
        """Their names, in order."""
        return sorted(self.manifest["sources"])

    @property
    def digest(self) -> str:
        """Of all shards."""
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self) -> None:
        """Read every shard, and check that it is as it was written.

        Raises:
            ConfigError: Names one that is not.
        """
        for source in self.sources:
            for part in (TRAIN, HELD_OUT):
                for each in self.manifest["sources"][source][part]:
                    path = Path(self.folder) / each["file"]
                    if hashlib.sha256(path.read_bytes()).hexdigest() != each["sha256"]:
                        raise ConfigError(f"{path}: is damaged; delete the folder, write it anew")

    def num_tokens(self, source: str, part: str = TRAIN) -> int:
        """Return the tokens of a source."""
        return sum(each["tokens"] for each in self.manifest["sources"][source][part])

    def num_sequences(self, source: str, context: int, part: str = TRAIN) -> int:
        """Return the sequences of a source; a shard's last tokens that make none are left out."""
        shards = self.manifest["sources"][source][part]
        return sum(_sequences_in(each["tokens"], context) for each in shards)

    def read(
        self, source: str, context: int, numbers: NDArray[np.int64], part: str = TRAIN
    ) -> NDArray[np.int64]:
        """Return sequences by their numbers: int64 ``[sequences, context + 1]``.

        The last token of one is the first of the next, so that each is predicted once.
        """
        shards = self.manifest["sources"][source][part]
        counts = [_sequences_in(each["tokens"], context) for each in shards]
        ends = np.cumsum(counts)
        found = np.empty((len(numbers), context + 1), np.int64)
        which = np.searchsorted(ends, numbers, side="right")
        for shard in np.unique(which):
            path = Path(self.folder) / shards[shard]["file"]
            tokens = np.memmap(path, self.manifest["dtype"], "r")
            rows = np.flatnonzero(which == shard)
            starts = (numbers[rows] - (ends[shard] - counts[shard])) * context
            found[rows] = tokens[starts[:, None] + np.arange(context + 1)]
        return found


@dataclass(frozen=True)
class ShardClients:
    """Shards spread over clients; see ``client.Sequences``.

    Attributes:
        shards: All text.
        context: Tokens of a sequence that are predicted.
        num_clients: Clients there are.
        by_source: Whether each client has text of one source, or of a few where there are more of
            them than clients; else all have of all, as much of each.
        seed: Of the order, which is another in every epoch.
        input_name: Of the model's input.

    Raises:
        ConfigError: There are no clients.
    """

    shards: TokenShards
    context: int
    num_clients: int
    by_source: bool = False
    seed: int = 0
    input_name: str = "ids"

    def __post_init__(self) -> None:
        if self.num_clients < 1:
            raise ConfigError(f"num_clients must be 1 or more, got {self.num_clients}")

    def device_ids(self) -> list[str]:
        """Return all clients."""
        return [f"client-{number:03d}" for number in range(self.num_clients)]

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        """Return sequences of a client, from its so-manieth on; after the last comes a new epoch.

        Raises:
            KeyError: There is no such client.
            ConfigError: It has no sequences.
        """
        names = self.device_ids()
        if device_id not in names:
            raise KeyError(f"there is no client {device_id!r}")
        owned = self._owned(names.index(device_id))
        total = sum(len(numbers) for _, numbers in owned)
        if not total:
            raise ConfigError(f"{device_id} has no sequence of {self.context} tokens")
        places: list[NDArray[np.int64]] = []
        at = cursor
        while at < cursor + count:
            epoch, first = divmod(at, total)
            part = _order(self.seed, device_id, epoch, total)[first : first + cursor + count - at]
            places.append(part)
            at += len(part)
        return self._read(owned, np.concatenate(places) if places else np.zeros(0, np.int64))

    def held_out(self, source: str, most: int | None = None) -> Examples:
        """Return sequences of a source that no client trains on.

        Args:
            source: Its name.
            most: Sequences at most, spread evenly over all there are.
        """
        total = self.shards.num_sequences(source, self.context, HELD_OUT)
        wanted = total if most is None else min(most, total)
        numbers = np.arange(wanted, dtype=np.int64) * total // max(wanted, 1)
        return self._examples(self.shards.read(source, self.context, numbers, HELD_OUT))

    def _owned(self, client: int) -> list[tuple[str, NDArray[np.int64]]]:
        """Return the numbers of a client's sequences, by source."""
        sources = self.shards.sources
        owned = []
        for index, source in enumerate(sources):
            holders = list(range(self.num_clients))
            if self.by_source:
                holders = [n for n in holders if n % len(sources) == index] or [
                    index % self.num_clients
                ]
            if client in holders:
                total = self.shards.num_sequences(source, self.context)
                first = holders.index(client)
                owned.append((source, np.arange(first, total, len(holders), dtype=np.int64)))
        return owned

    def _read(
        self, owned: Sequence[tuple[str, NDArray[np.int64]]], places: NDArray[np.int64]
    ) -> Examples:
        tokens = np.empty((len(places), self.context + 1), np.int64)
        start = 0
        for source, numbers in owned:
            rows = np.flatnonzero((places >= start) & (places < start + len(numbers)))
            chosen = numbers[places[rows] - start]
            tokens[rows] = self.shards.read(source, self.context, chosen)
            start += len(numbers)
        return self._examples(tokens)

    def _examples(self, tokens: NDArray[np.int64]) -> Examples:
        inputs = {self.input_name: np.ascontiguousarray(tokens[:, :-1])}
        return Examples(inputs, np.ascontiguousarray(tokens[:, 1:]))


@functools.lru_cache(maxsize=8)
def _order(seed: int, device_id: str, epoch: int, total: int) -> NDArray[np.int64]:
    """Return the order of a client's epoch, which it reads a round at a time; not to be written."""
    return generator_for(seed, "epoch", device_id, epoch).permutation(total)


def _sequences_in(tokens: int, context: int) -> int:
    return max(0, tokens - 1) // context
