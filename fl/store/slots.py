"""Memory that processes share, used again and again: fresh pages cost several times a copy."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass

from hocket.fl.core.errors import StoreError

# A slot is at most an eighth larger than what it was made for.
_STEPS_A_DOUBLING = 8
_LEAST_BYTES = mmap.PAGESIZE


@dataclass(frozen=True, eq=False)
class Slot:
    """A piece of memory that another process can map by its descriptor.

    Without a name there is nothing that a killed process could leave behind.

    Attributes:
        number: Which it is.
        descriptor: Of the file in memory.
        memory: Mapped here, to be written.
        num_bytes: Of it.
    """

    number: int
    descriptor: int
    memory: mmap.mmap
    num_bytes: int


class Slots:
    """Makes slots and uses them again. Not for several threads at once.

    Args:
        capacity_bytes: Of all slots, those in use and those that wait to be used again.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._free: dict[int, list[Slot]] = {}
        self._made_bytes = self._num_made = 0

    @property
    def made_bytes(self) -> int:
        """Of all slots, in use or not."""
        return self._made_bytes

    def take(self, num_bytes: int) -> Slot | None:
        """Return a slot of that many bytes or a few more; None if there is no room for one."""
        size = slot_bytes(num_bytes)
        if self._free.get(size):
            return self._free[size].pop()
        while self._made_bytes + size > self.capacity_bytes:
            waiting = max((each for each, slots in self._free.items() if slots), default=None)
            if waiting is None:
                return None
            self._close(self._free[waiting].pop())
        return self._make(size)

    def give_back(self, slot: Slot) -> None:
        """Let a slot be used again."""
        self._free.setdefault(slot.num_bytes, []).append(slot)

    def close(self) -> None:
        """Let go of the slots that were given back."""
        for slots in self._free.values():
            while slots:
                self._close(slots.pop())

    def _make(self, size: int) -> Slot:
        descriptor, memory = make_shared(size)
        self._made_bytes += size
        self._num_made += 1
        return Slot(self._num_made, descriptor, memory, size)

    def _close(self, slot: Slot) -> None:
        self._made_bytes -= slot.num_bytes
        os.close(slot.descriptor)
        try:
            slot.memory.close()
        except BufferError:
            # Somebody still looks at what was there; the memory goes when they let go of it.
            return


def slot_bytes(num_bytes: int) -> int:
    """Return the size of the slot that so many bytes are put into."""
    wanted = max(num_bytes, _LEAST_BYTES)
    step = max(1 << (wanted.bit_length() - 1), _STEPS_A_DOUBLING) // _STEPS_A_DOUBLING
    return -(-wanted // max(step, mmap.PAGESIZE)) * max(step, mmap.PAGESIZE)


def make_shared(num_bytes: int) -> tuple[int, mmap.mmap]:
    """Return new memory that other processes can map: its descriptor, and where it is mapped here.

    Raises:
        StoreError: There is none left.
    """
    descriptor = open_nameless()
    try:
        os.ftruncate(descriptor, num_bytes)
        return descriptor, mmap.mmap(descriptor, num_bytes)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"cannot get {num_bytes} bytes of memory to share: {error}") from error


def open_nameless() -> int:
    """Return the descriptor of a new file in memory, which is gone when nobody has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hocket", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def map_slot(descriptor: int, num_bytes: int) -> mmap.mmap:
    """Map another process's slot, to be read, and close its descriptor."""
    try:
        return mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
