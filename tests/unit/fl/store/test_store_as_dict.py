"""A store beside a dict: whatever is done to both, they hold the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import UPDATE
from hocket.fl.store.catalog import Catalog
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import open_objects
from hocket.fl.store.round_store import RoundStore
from hocket.fl.store.workloads.workload import Question

DEVICES = st.sampled_from(["a", "b", "c"])
ROUNDS = st.integers(1, 5)
NUMBERS = st.integers(0, 4)


class StoreAsDict(RuleBasedStateMachine):
    """Entries are put, ingested, read, forgotten, damaged and collected, and the store reopened."""

    damaged = Bundle("damaged")

    @initialize()
    def begin(self) -> None:
        """Make both empty."""
        self.folder = Path(tempfile.mkdtemp())
        self.wanted: dict[Key, bytes] = {}
        self.open()

    def open(self) -> None:
        # The time is far ahead, so that garbage is old enough to be collected.
        catalog = Catalog(self.folder / "catalog.sqlite")
        self.history = History(open_objects(str(self.folder)), catalog, lambda: 4e9)
        # Room for a few entries only: most of the time something is let go of.
        self.store = RoundStore(self.history, Instances(6 * 4096, most=1))

    def shut(self) -> None:
        self.store.close()
        self.history.catalog.close()

    @rule(device=DEVICES, number=ROUNDS, content=st.binary(max_size=40))
    def put(self, device: str, number: int, content: bytes) -> None:
        """Put bytes."""
        key = Key("job", number, device, "notes")
        self.store.put(key, content)
        self.wanted[key] = content

    @rule(device=DEVICES, number=ROUNDS, value=NUMBERS)
    def ingest(self, device: str, number: int, value: int) -> None:
        """Ingest an update, which is held."""
        key = Key("job", number, device, UPDATE)
        arrays = {"w": np.full(50, value, np.float32)}
        self.store.ingest(key, arrays)
        self.wanted[key] = layout.encode(arrays)

    @rule(device=DEVICES, number=ROUNDS, kind=st.sampled_from(["notes", UPDATE]))
    def get(self, device: str, number: int, kind: str) -> None:
        """Read an entry, which may not be there."""
        key = Key("job", number, device, kind)
        try:
            assert self.store.get(key) == self.wanted[key]
        except KeyError:
            assert key not in self.wanted
            assert key not in self.history.catalog

    @rule(device=DEVICES, number=ROUNDS, kind=st.sampled_from(["notes", UPDATE]))
    def delete(self, device: str, number: int, kind: str) -> None:
        """Forget an entry, which may not be there."""
        key = Key("job", number, device, kind)
        self.store.delete(key)
        self.wanted.pop(key, None)

    @rule(number=ROUNDS)
    def ask(self, number: int) -> None:
        """Ask how alike a round's updates are, which follows from what is known of them."""
        round_ = {
            key.device: np.frombuffer(content, np.float32)[-1]
            for key, content in self.wanted.items()
            if key.round == number and key.kind == UPDATE
        }
        if round_:
            found = self.store.ask("cosine-scheduling", Question("job", number)).values["cosines"]
            assert found.keys() == round_.keys()
            for device, value in round_.items():
                wanted = float(value > 0 and any(each > 0 for each in round_.values()))
                assert abs(found[device] - wanted) < 1e-6

    @rule(kept=st.integers(1, 3))
    def retain(self, kept: int) -> None:
        """Keep the last rounds."""
        last = max((key.round for key in self.wanted), default=0)
        gone = [key for key in self.wanted if key.round <= last - kept]
        assert self.history.keep_rounds("job", kept) == len(gone)
        for key in gone:
            del self.wanted[key]

    @rule()
    def collect(self) -> None:
        """Delete bytes that no entry has: those of all entries are left, each once."""
        self.history.collect_garbage(0)
        left = {listed.digest for listed in self.history.objects.listing()}
        assert left == {entry.digest for entry in self.history.catalog.entries()}
        assert len(left) == len(set(self.wanted.values()))

    @rule(target=damaged, place=st.integers(0, 100))
    def damage(self, place: int) -> object:
        """Change a byte of an object on the disk."""
        paths = [path for path in sorted(self.folder.rglob("objects/*/*")) if path.stat().st_size]
        if not paths:
            return multiple()
        path = paths[place % len(paths)]
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1
        path.write_bytes(content)
        found = {damage.key for damage in self.history.verify()}
        assert found == {
            entry.key for entry in self.history.catalog.entries() if entry.digest == path.name
        }
        # It is mended again, so that what follows is about a whole store.
        content[place % len(content)] ^= 1
        path.write_bytes(content)
        return path.name

    @rule(name=consumes(damaged))
    def mended(self, name: str) -> None:
        """See that what was mended is whole."""
        assert self.history.verify() == []

    @rule()
    def reopen(self) -> None:
        """Close the store and open it again."""
        self.shut()
        self.open()

    @invariant()
    def same_keys(self) -> None:
        """Compare all keys."""
        assert self.store.keys() == sorted(self.wanted)

    def teardown(self) -> None:
        """Compare all bytes."""
        for key, content in self.wanted.items():
            assert self.store.get(key) == content
        assert self.history.verify() == []
        self.shut()
        shutil.rmtree(self.folder)


StoreAsDict.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
test_a_store_is_a_dict = StoreAsDict.TestCase
