"""Whatever is lost, killed, joins or leaves: every token is in the model once, and is counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.photon_rounds import (
    BATCH,
    CONTEXT,
    STEPS,
    TRAINING,
    Averages,
    Counting,
    Scripted,
    engine_of,
    server,
)

from hocket.fl.core.coordinator import Progress
from hocket.fl.core.store import Key, MemoryStore
from hocket.fl.core.types import ClientTask, Device, Reply
from hocket.fl.photon.lattice import Secure
from hocket.fl.photon.ledger import Ledger
from hocket.fl.photon.server import PhotonServer, ledger_of

ROUNDS, CLIENTS = 5, 4
NAMES = Counting(CLIENTS).device_ids()
COUNT = BATCH * STEPS

ROUND_AND_CLIENT = st.tuples(st.integers(1, ROUNDS), st.sampled_from(NAMES))
PRESENT = st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=ROUNDS, max_size=ROUNDS)


class KilledError(BaseException):
    """The process is gone at once."""


class Mortal(MemoryStore):
    """A store whose process dies at some of the moments when something is kept or answered."""

    def __init__(self, deaths: set[int]) -> None:
        super().__init__()
        self.deaths, self.moment = deaths, 0

    def live(self) -> None:
        self.moment += 1
        if self.moment in self.deaths:
            raise KilledError

    def put(self, key: Key, content: bytes) -> None:
        self.live()
        super().put(key, content)
        self.live()


@dataclasses.dataclass
class Fleeting(Scripted):
    """An engine whose clients come and go between rounds."""

    present: list[set[str]] = dataclasses.field(default_factory=list)
    store: Any = None

    def devices(self) -> list[Device]:
        rounds = [key.round for key in self.store.keys("run/") if key.kind == "state"]
        return [Device(name) for name in sorted(self.present[max(rounds)])]


def run(
    store: Mortal,
    present: list[set[str]],
    lost: set[tuple[int, str]],
    twice: set[tuple[int, str]],
    **parts: Any,
) -> Progress:
    """Run to the end, beginning anew after each death as the front door does."""

    def change(task: ClientTask, reply: Reply) -> Reply | list[Reply] | None:
        store.live()
        at = (task.round, task.device_id)
        if at in lost:
            return None
        return [reply, reply] if at in twice and "photon_phase" not in task.config else reply

    while True:
        try:
            made = whole_server(store, present, change, **parts)
            state = store.keys("run/")
            if any(key.kind == "state" for key in state):
                return made.run(made.resume())
            return made.run(made.begin(Averages().parameters()))
        except KilledError:
            continue


def whole_server(store: Any, present: Any, change: Any, **parts: Any) -> PhotonServer:
    made = server(change, ROUNDS, store=store, quorum=0.5, **parts)
    engine = engine_of(made)
    fleeting = Fleeting(engine.client, engine.sequences, change, present=present, store=store)
    return dataclasses.replace(made, engine=fleeting)


@settings(max_examples=25, deadline=None)
@given(
    PRESENT,
    st.sets(ROUND_AND_CLIENT, max_size=6),
    st.sets(ROUND_AND_CLIENT, max_size=3),
    st.sets(st.integers(1, 90), max_size=4),
    st.sampled_from(["float32", "int4"]),
    st.booleans(),
)
def test_a_run_that_dies_anywhere_counts_and_learns_as_one_that_does_not(
    present: list[set[str]],
    lost: set[tuple[int, str]],
    twice: set[tuple[int, str]],
    deaths: set[int],
    scheme: str,
    keep_optimizer: bool,
) -> None:
    training = dataclasses.replace(TRAINING, keep_optimizer=keep_optimizer)
    parts = {"scheme": scheme, "training": training}
    wanted = run(Mortal(set()), present, lost, twice, **parts)
    found = run(Mortal(deaths), present, lost, twice, **parts)
    assert [each.digest for each in found.reports] == [each.digest for each in wanted.reports]
    ledger = ledger_of(found.state)
    assert ledger.accounts == ledger_of(wanted.state).accounts
    assert ledger.tokens == CONTEXT * sum(each.cursor for each in ledger.accounts.values())
    check_counts(found, ledger, present, lost)


def check_counts(
    found: Progress, ledger: Ledger, present: list[set[str]], lost: set[tuple[int, str]]
) -> None:
    """Each client has read as much as it has answered in rounds that count, and no more."""
    rounds = [
        {name for name in names if (number, name) not in lost}
        for number, names in enumerate(present, 1)
    ]
    for name in NAMES:
        counted = sum(
            name in answered
            for answered, report in zip(rounds, found.reports, strict=True)
            if report.has_quorum
        )
        account = ledger.account(name)
        assert (account.num_updates, account.cursor) == (counted, counted * COUNT)
    for answered, names, report in zip(rounds, present, found.reports, strict=True):
        assert (report.num_tasks, report.num_updates) == (len(names), len(answered))
        assert report.has_quorum == (len(answered) >= max(1, -(-len(names) // 2)))


@settings(max_examples=5, deadline=None)
@given(st.sets(ROUND_AND_CLIENT, max_size=3), st.sets(st.integers(1, 150), max_size=3))
def test_secret_sums_die_and_come_back_alike(lost: set[tuple[int, str]], deaths: set[int]) -> None:
    """A round that is begun again has other masks, and the same sum."""
    present = [set(NAMES)] * ROUNDS
    parts = {"secure": Secure(bits=32, threshold=0.5)}
    wanted = run(Mortal(set()), present, lost, set(), **parts)
    found = run(Mortal(deaths), present, lost, set(), **parts)
    assert [each.digest for each in found.reports] == [each.digest for each in wanted.reports]
    assert ledger_of(found.state).accounts == ledger_of(wanted.state).accounts


def test_who_joins_late_learns_from_its_first_token_on() -> None:
    """And who comes back goes on where its last round that counted ended."""
    present = [{"client-0"}, {"client-0", "client-1"}, {"client-1"}, {"client-0"}, set(NAMES)]
    found = run(Mortal(set()), present, set(), set())
    cursors = [ledger_of(found.state).account(name).cursor for name in NAMES]
    assert cursors == [4 * COUNT, 3 * COUNT, COUNT, COUNT]
    assert [report.num_updates for report in found.reports] == [1, 2, 1, 1, 4]


def test_a_round_of_nobody_moves_nothing() -> None:
    found = run(Mortal(set()), [set(NAMES), set(), *[set(NAMES)] * 3], set(), set())
    reports = found.reports
    assert [report.has_quorum for report in reports] == [True, False, True, True, True]
    assert reports[1].digest == reports[0].digest
    assert ledger_of(found.state).tokens == 4 * CLIENTS * COUNT * CONTEXT


def test_deaths_are_not_all_missed() -> None:
    """The property dies where it says, or it would hold of anything."""
    store, key = Mortal({3}), Key("run", 1, "server", "state")
    store.put(key, b"")
    with pytest.raises(KilledError):
        store.put(key, b"new")
    # Before it was kept.
    assert store.get(key) == b""
