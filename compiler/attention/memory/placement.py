"""An address for every buffer, so that those alive at the same time do not overlap.

Three ways: ``place_buffers`` scans the buffers as they come alive, ``place_by_size`` begins with
the largest, ``place_by_area`` with those that are large for long. None is always best;
``place_best`` tries them all. ``exact.py`` finds the least memory, for a few buffers.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.tasks import TENSORS
from hocket.hwmodels.units import align_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.liveness import LiveRange
    from hocket.hwmodels.machine import HardwareModel

    Longs = NDArray[np.int64]


class _FreeList:
    """Free stretches of memory, by address; neighbours are always joined."""

    def __init__(self, capacity: int) -> None:
        self._starts = [0]
        self._sizes = [capacity]

    def take(self, size: int) -> int | None:
        """Take ``size`` bytes from the tightest stretch that has them; None if none has."""
        best = None
        for index, free in enumerate(self._sizes):
            if free >= size and (best is None or free < self._sizes[best]):
                best = index
        if best is None:
            return None
        start = self._starts[best]
        if self._sizes[best] == size:
            del self._starts[best], self._sizes[best]
        else:
            self._starts[best] += size
            self._sizes[best] -= size
        return start

    def give(self, start: int, size: int) -> None:
        """Give bytes back."""
        index = bisect.bisect_left(self._starts, start)
        if index < len(self._starts) and start + size == self._starts[index]:
            size += self._sizes[index]
            del self._starts[index], self._sizes[index]
        if index and self._starts[index - 1] + self._sizes[index - 1] == start:
            self._sizes[index - 1] += size
        else:
            self._starts.insert(index, start)
            self._sizes.insert(index, size)

    def largest(self) -> int:
        """Return the size of the largest stretch."""
        return max(self._sizes, default=0)


def buffer_bytes(buffers: Longs, machine: HardwareModel) -> list[int]:
    """Return the bytes of each buffer, rounded up to whole units of the machine's alignment.

    Args:
        buffers: ``Schedule.buffers``.
        machine: Its element size and alignment count.
    """
    needed = buffers[:, 1] * buffers[:, 2] * machine.element_bytes
    return [align_up(size, machine.alignment_bytes) for size in needed.tolist()]


def peak_bytes(places: Longs) -> int:
    """Return one past the highest byte in use."""
    return int(places.sum(axis=1).max()) if len(places) else 0


def place_buffers(
    buffers: Longs, ranges: Sequence[LiveRange | None], machine: HardwareModel
) -> Longs:
    """Place buffers by linear scan: each where the space is tightest when it comes alive.

    Buffers come alive in the order of their first moment, and give their space back after their
    last.

    Args:
        buffers: ``Schedule.buffers``.
        ranges: When each is needed; one that never is lies at address 0.
        machine: Its element size, alignment and on-chip capacity count.

    Returns:
        First byte and size of each buffer, as in ``Program.places``.

    Raises:
        InfeasibleError: Some buffer finds no room; the report says what lives at that moment.
    """
    sizes = buffer_bytes(buffers, machine)
    free = _FreeList(_usable_bytes(machine))
    alive: list[tuple[int, int]] = []  # (last moment, buffer), sorted
    places = np.array([[0, size] for size in sizes], dtype=np.int64).reshape(-1, 2)
    for index, live in _in_order_of_birth(ranges):
        while alive and alive[0][0] < live.first:
            _, ended = alive.pop(0)
            free.give(int(places[ended, 0]), sizes[ended])
        offset = free.take(sizes[index])
        if offset is None:
            others = [buffer for _, buffer in alive]
            raise _no_room(buffers, sizes, index, others, free.largest(), machine)
        places[index, 0] = offset
        bisect.insort(alive, (live.last, index))
    return places


def place_by_size(
    buffers: Longs, ranges: Sequence[LiveRange | None], machine: HardwareModel
) -> Longs:
    """Place buffers from the largest to the smallest, each in the lowest gap that takes it.

    The arguments and the result are those of ``place_buffers``.

    Raises:
        InfeasibleError: Some buffer finds no room; the report says what it would lie beside.
    """
    sizes = buffer_bytes(buffers, machine)
    return _place_in_turn(buffers, ranges, machine, sizes)


def place_by_area(
    buffers: Longs, ranges: Sequence[LiveRange | None], machine: HardwareModel
) -> Longs:
    """Place buffers by size times live range, greatest first, each in the lowest gap.

    The arguments and the result are those of ``place_buffers``.

    Raises:
        InfeasibleError: Some buffer finds no room; the report says what it would lie beside.
    """
    sizes = buffer_bytes(buffers, machine)
    areas = [
        size * (live.last + 1 - live.first) if live is not None else 0
        for size, live in zip(sizes, ranges, strict=True)
    ]
    return _place_in_turn(buffers, ranges, machine, areas)


def place_best(buffers: Longs, ranges: Sequence[LiveRange | None], machine: HardwareModel) -> Longs:
    """Place buffers in all three ways, and return the placement that takes least memory.

    The arguments and the result are those of ``place_buffers``.

    Raises:
        InfeasibleError: No way finds room for all.
    """
    found: Longs | None = None
    failure: InfeasibleError | None = None
    for place in (place_buffers, place_by_size, place_by_area):
        try:
            places = place(buffers, ranges, machine)
        except InfeasibleError as error:
            failure = failure or error
            continue
        if found is None or peak_bytes(places) < peak_bytes(found):
            found = places
    if found is None:
        raise failure or InfeasibleError("no buffers to place")
    return found


def _place_in_turn(
    buffers: Longs,
    ranges: Sequence[LiveRange | None],
    machine: HardwareModel,
    weights: list[int],
) -> Longs:
    """Place buffers, the heaviest first, each in the lowest gap that takes it."""
    sizes = buffer_bytes(buffers, machine)
    capacity = _usable_bytes(machine)
    places = np.array([[0, size] for size in sizes], dtype=np.int64).reshape(-1, 2)
    neighbours = _neighbours(ranges)
    placed: dict[int, int] = {}
    order = sorted(
        (index for index, live in enumerate(ranges) if live is not None),
        key=lambda index: (-weights[index], index),
    )
    for index in order:
        beside = [other for other in neighbours[index] if other in placed]
        offset = 0
        for start, other in sorted((placed[other], other) for other in beside):
            if start - offset >= sizes[index]:
                break
            offset = max(offset, start + sizes[other])
        if offset + sizes[index] > capacity:
            raise _no_room(buffers, sizes, index, beside, max(capacity - offset, 0), machine)
        placed[index] = offset
        places[index, 0] = offset
    return places


def _usable_bytes(machine: HardwareModel) -> int:
    capacity = machine.on_chip_memory.capacity_bytes
    return capacity - capacity % machine.alignment_bytes


def _in_order_of_birth(ranges: Sequence[LiveRange | None]) -> Iterator[tuple[int, LiveRange]]:
    alive = [(live.first, index, live) for index, live in enumerate(ranges) if live is not None]
    for _, index, live in sorted(alive, key=lambda each: each[:2]):
        yield index, live


def _neighbours(ranges: Sequence[LiveRange | None]) -> list[list[int]]:
    """Return for each buffer those that are needed at some moment when it is, too."""
    found: list[list[int]] = [[] for _ in ranges]
    alive: list[tuple[int, int]] = []  # (last moment, buffer), sorted
    for index, live in _in_order_of_birth(ranges):
        del alive[: bisect.bisect_left(alive, (live.first, -1))]
        for _, other in alive:
            found[other].append(index)
        found[index].extend(other for _, other in alive)
        bisect.insort(alive, (live.last, index))
    return found


def _no_room(
    buffers: Longs,
    sizes: list[int],
    index: int,
    alive: list[int],
    largest_gap: int,
    machine: HardwareModel,
) -> InfeasibleError:
    def tensor(buffer: int) -> str:
        return TENSORS[buffers[buffer, 0]]

    used: dict[str, int] = {}
    for other in alive:
        used[tensor(other)] = used.get(tensor(other), 0) + sizes[other]
    terms = " + ".join(f"{name} {count}" for name, count in sorted(used.items())) or "nothing"
    return InfeasibleError(
        f"no room on chip for a {tensor(index)} buffer",
        (
            f"resource: {machine.on_chip_memory.name} of {machine.name}",
            f"demand: {sizes[index]} bytes beside {sum(used.values())} alive ({terms})",
            f"bound: {machine.on_chip_memory.capacity_bytes} bytes",
            f"gap: the largest free stretch has {largest_gap} bytes",
            "levers: fewer query_rows or heads, smaller kv_columns, less prefetch",
        ),
    )
