"""An address for every buffer, so that those alive at the same time do not overlap."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.program import Placement
from hocket.hwmodels.units import align_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.compiler.attention.memory.liveness import LiveRange
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Buffer


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


def place_buffers(
    buffers: Sequence[Buffer],
    ranges: Sequence[LiveRange | None],
    machine: HardwareModel,
) -> tuple[Placement, ...]:
    """Place buffers by linear scan: each where the space is tightest when it comes alive.

    Buffers come alive in the order of their first task, and give their space back after their last.

    Raises:
        InfeasibleError: Some buffer finds no room; the report says what lives at that moment.
    """
    capacity = machine.on_chip_memory.capacity_bytes
    capacity -= capacity % machine.alignment_bytes
    free = _FreeList(capacity)
    alive: list[tuple[int, int]] = []  # (last task, buffer), sorted
    places: list[Placement | None] = [None] * len(buffers)
    order = [(live.first, index) for index, live in enumerate(ranges) if live is not None]
    for first, index in sorted(order):
        while alive and alive[0][0] < first:
            _, ended = alive.pop(0)
            place = places[ended]
            if place is not None:
                free.give(place.offset_bytes, place.size_bytes)
        size = _size_bytes(buffers[index], machine)
        offset = free.take(size)
        if offset is None:
            raise _no_room(buffers, index, [buffer for _, buffer in alive], free, machine)
        places[index] = Placement(offset, size)
        live = ranges[index]
        if live is not None:
            bisect.insort(alive, (live.last, index))
    return tuple(
        place or Placement(0, _size_bytes(buffer, machine))
        for place, buffer in zip(places, buffers, strict=True)
    )


def _size_bytes(buffer: Buffer, machine: HardwareModel) -> int:
    return align_up(buffer.num_elements * machine.element_bytes, machine.alignment_bytes)


def _no_room(
    buffers: Sequence[Buffer],
    index: int,
    alive: list[int],
    free: _FreeList,
    machine: HardwareModel,
) -> InfeasibleError:
    used: dict[str, int] = {}
    for other in alive:
        tensor = buffers[other].tensor
        used[tensor] = used.get(tensor, 0) + _size_bytes(buffers[other], machine)
    size = _size_bytes(buffers[index], machine)
    terms = " + ".join(f"{tensor} {count}" for tensor, count in sorted(used.items()))
    return InfeasibleError(
        f"no room on chip for a {buffers[index].tensor} buffer",
        (
            f"resource: {machine.on_chip_memory.name} of {machine.name}",
            f"demand: {size} bytes beside {sum(used.values())} alive ({terms})",
            f"bound: {machine.on_chip_memory.capacity_bytes} bytes",
            f"gap: the largest free stretch has {free.largest()} bytes",
            "levers: fewer query_rows or heads, smaller kv_columns, less prefetch, streamed kv",
        ),
    )
