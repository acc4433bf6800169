"""Memory that nobody loses, and processes that do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError, FederationError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.instance import Rooms
from hocket.fl.store.instances import Instances
from hocket.fl.store.slots import Slots, map_slot, slot_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = [Key("job", 1, f"d{place}", "update") for place in range(5)]
FACTS: dict[str, Any] = {"round": 1, "devices": [], "rule": "median", "trimmed": 0}


def content_of(number: float, size: int = 10_000) -> bytes:
    return layout.encode({"w": np.full(size, number, np.float32)})


def unreadable(key: Key) -> bytes:
    raise AssertionError(f"{key} is held")


@pytest.fixture
def instances() -> Iterator[Instances]:
    made = Instances(10 << 20, most=1)
    yield made
    made.close()


def test_work_runs_on_what_is_held_and_what_is_read(instances: Instances) -> None:
    for number, key in enumerate(KEYS[:3]):
        assert instances.hold(key, content_of(number))
    read = []

    def from_disk(key: Key) -> bytes:
        read.append(key)
        return content_of(100.0)

    answer = instances.run("robust-mean", FACTS, KEYS, from_disk)
    assert read == KEYS[3:]
    assert answer.arrays["w"].tolist() == [2.0] * 10_000
    assert not instances.holds(KEYS[3]), "it was read for one request"
    usage = instances.usage()
    assert (usage.num_requests, usage.num_cold_starts, usage.num_lost) == (1, 1, 0)
    assert usage.held_bytes == sum(len(content_of(number)) for number in range(3))


def test_a_killed_instance_loses_nothing(instances: Instances) -> None:
    for number, key in enumerate(KEYS):
        instances.hold(key, content_of(number))
    for _ in range(3):
        answer = instances.run("robust-mean", FACTS, KEYS, unreadable)
        assert answer.arrays["w"][0] == 2.0
        (victim,) = instances.processes()
        os.kill(victim, signal.SIGKILL)
    answer = instances.run("robust-mean", FACTS, KEYS, unreadable)
    assert answer.arrays["w"].tolist() == [2.0] * 10_000
    assert instances.usage().num_lost == 3


def test_requests_survive_instances_killed_at_work() -> None:
    instances = Instances(10 << 20, most=2)
    for number, key in enumerate(KEYS):
        instances.hold(key, content_of(number, 200_000))
    answers: list[float] = []
    victims: set[int] = set()

    def ask() -> None:
        while len(victims) < 4 or len(answers) < 12:
            answer = instances.run("robust-mean", FACTS, KEYS, unreadable)
            answers.append(float(answer.arrays["w"].sum()))

    def kill() -> None:
        while len(victims) < 4:
            known = len(answers)
            for victim in set(instances.processes()) - victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                victims.add(victim)
            # What comes next is from an instance that lives, or began anew.
            while len(answers) == known and len(victims) < 4:
                time.sleep(0.001)

    threads = [threading.Thread(target=each) for each in (ask, ask, kill)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {400_000.0}
    # Of two at a time, the third is begun once one is known to be lost.
    assert instances.usage().num_lost >= 2
    instances.close()


def test_an_answer_stays_while_somebody_has_it(instances: Instances) -> None:
    for number, key in enumerate(KEYS):
        instances.hold(key, content_of(number))

    def ask(keys: list[Key]) -> Any:
        return instances.run("robust-mean", FACTS, keys, unreadable).arrays["w"]

    kept = [ask(KEYS[place : place + 1]) for place in range(5)]
    # A part of one is enough.
    part = ask(KEYS)[5:9].view(np.uint8)
    for _ in range(3):
        assert ask(KEYS[4:])[0] == 4.0
    assert [each.tolist() for each in kept] == [[float(place)] * 10_000 for place in range(5)]
    assert part.view(np.float32).tolist() == [2.0] * 4
    assert not kept[0].flags.writeable
    (victim,) = instances.processes()
    os.kill(victim, signal.SIGKILL)
    assert ask(KEYS[1:2])[0] == 1.0
    assert [each[0] for each in kept] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_answers_of_other_sizes_follow_each_other(instances: Instances) -> None:
    for size in (10, 50_000, 10, 20_000, 20_000):
        instances.hold(KEYS[0], content_of(size, size))
        answer = instances.run("robust-mean", FACTS, KEYS[:1], unreadable)
        assert answer.arrays["w"].tolist() == [float(size)] * size


def test_errors_of_the_work_come_back_and_the_instance_stays(instances: Instances) -> None:
    instances.hold(KEYS[0], content_of(0))
    with pytest.raises(ConfigError, match="are not those of"):
        instances.run("robust-mean", FACTS, KEYS[:2], lambda _: content_of(1, 7))
    with pytest.raises(StoreError, match="no object of arrays"):
        instances.run("robust-mean", FACTS, KEYS[:2], lambda _: b"damaged")
    assert instances.usage().num_cold_starts == 1


def test_work_that_takes_too_long_is_stopped() -> None:
    instances = Instances(64 << 20, most=1, request_seconds=0.001)
    with pytest.raises(FederationError, match=r"took more than 0\.001 s"):
        instances.run("robust-mean", FACTS, KEYS, lambda _: content_of(0, 500_000))
    assert instances.processes() == []
    instances.close()


def test_idle_instances_are_stopped() -> None:
    seconds = [0.0]
    instances = Instances(10 << 20, most=2, idle_seconds=10, now=lambda: seconds[0])
    gate = threading.Barrier(2)

    def both(_: Key) -> bytes:
        gate.wait()
        return content_of(0)

    threads = [
        threading.Thread(target=instances.run, args=("robust-mean", FACTS, KEYS[:1], both))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alive = instances.usage().num_instances
    seconds[0] = 11.0
    instances.run("robust-mean", FACTS, KEYS[:1], lambda _: content_of(0))
    assert instances.usage().num_instances == 1 <= alive
    instances.close()


def test_an_entry_stays_while_it_is_read(instances: Instances) -> None:
    instances.hold(KEYS[0], content_of(1))
    with instances.reading(KEYS) as found:
        assert list(found) == KEYS[:1]
        instances.drop(KEYS[0])
        # Of the same size, so it would get the same memory.
        instances.hold(KEYS[1], content_of(2))
        assert bytes(found[KEYS[0]]) == content_of(1)
        assert found[KEYS[0]].readonly
    with instances.reading(KEYS) as found:
        assert {key: bytes(content) for key, content in found.items()} == {KEYS[1]: content_of(2)}


def test_what_does_not_fit_is_not_held_and_said(instances: Instances) -> None:
    assert not instances.hold(KEYS[0], bytes(11 << 20))
    assert not instances.holds(KEYS[0])
    with pytest.raises(StoreError, match="give the cache more memory"):
        instances.run("robust-mean", FACTS, KEYS[:1], lambda _: bytes(11 << 20))


@given(st.integers(0, 1 << 40))
def test_slots_are_little_larger_than_what_they_hold(num_bytes: int) -> None:
    size = slot_bytes(num_bytes)
    assert size >= num_bytes
    assert size <= max(num_bytes * 9 / 8, 4096) + 4096
    assert slot_bytes(size) == size


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100_000)), max_size=30))
def test_slots_in_use_never_share_memory_and_fit_the_capacity(
    steps: list[tuple[bool, int]],
) -> None:
    slots = Slots(300_000)
    used: dict[int, tuple[Any, bytes]] = {}
    for number, (is_taken, size) in enumerate(steps):
        if is_taken:
            slot = slots.take(size)
            if slot is not None:
                assert slot.number not in used
                content = bytes([number % 256]) * size
                slot.memory[:size] = content
                used[slot.number] = (slot, content)
        elif used:
            slots.give_back(used.pop(next(iter(used)))[0])
        assert slots.made_bytes <= 300_000
        for slot, content in used.values():
            assert slot.memory[: len(content)] == content
    for slot, content in used.values():
        mapped = map_slot(os.dup(slot.descriptor), slot.num_bytes)
        assert mapped[: len(content)] == content
        mapped.close()
        slots.give_back(slot)
    slots.close()
    assert slots.made_bytes == 0


@given(st.lists(st.tuples(st.sampled_from([10, 5_000, 90_000]), st.booleans()), max_size=8))
def test_rooms_that_are_read_are_left_alone(asked: list[tuple[int, bool]]) -> None:
    """And memory is new only where none that is free has the size."""
    rooms = Rooms()
    kept: dict[int, tuple[memoryview, int]] = {}
    sizes: dict[int, int] = {}
    for number, (num_bytes, is_kept) in enumerate(asked, 1):
        unread = [room for room in sizes if room not in kept]
        rooms.offer(unread)
        found = rooms.take(num_bytes)
        assert len(found) == num_bytes
        assert rooms.taken in range(2)
        room = rooms.taken
        could = any(sizes[each] == slot_bytes(num_bytes) for each in unread)
        assert (rooms.descriptor is None) == could
        if rooms.descriptor is None:
            assert room in unread
        else:
            os.close(rooms.descriptor)
        sizes[room] = slot_bytes(num_bytes)
        found[:] = bytes([number]) * num_bytes
        for reader, what in kept.values():
            assert set(reader) == {what}
        # Whose memory was given up reads on in what he has mapped.
        kept.pop(room, None)
        if is_kept:
            kept[room] = found, number


def test_a_request_that_fails_leaves_no_memory(instances: Instances) -> None:
    rooms = Rooms()
    rooms.offer([])
    rooms.take(10)
    rooms.withdraw()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(rooms.descriptor or -1)
    rooms.offer([0])
    assert len(rooms.take(10)) == 10
    assert rooms.descriptor is not None, "what was withdrawn is not used again"
    os.close(rooms.descriptor)
    instances.hold(KEYS[0], content_of(1))
    instances.hold(KEYS[1], layout.encode({"other": np.ones(3, np.float32)}))
    for _ in range(3):
        with pytest.raises(ConfigError, match="are not those of"):
            instances.run("robust-mean", FACTS, KEYS[:2], unreadable)
        assert instances.run("robust-mean", FACTS, KEYS[:1], unreadable).arrays["w"][0] == 1.0
