"""What the operating system tells of this computer: its caches and its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Of the first core, on Linux; a virtual machine may hide it.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Cache:
    """One level of the data caches.

    Attributes:
        level: 1 for the nearest.
        size_bytes: Its size.
        num_sharers: Cores, or threads of cores, that share it.
    """

    level: int
    size_bytes: int
    num_sharers: int


def read_caches(folder: Path = _CACHES) -> tuple[Cache, ...]:
    """Return the data caches of a core, nearest first; empty if the system does not tell.

    Args:
        folder: Where Linux describes the caches of one core.
    """
    caches = []
    for entry in sorted(folder.glob("index*")):
        try:
            texts = {
                name: (entry / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            }
            size = _parse_size(texts["size"])
            cache = Cache(int(texts["level"]), size, _count_cpus(texts["shared_cpu_list"]))
        except (OSError, ValueError):
            continue
        if texts["type"] != "Instruction" and cache.size_bytes > 0:
            caches.append(cache)
    return tuple(sorted(caches, key=lambda cache: cache.level))


def memory_bytes() -> int | None:
    """Return the size of memory; None if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _parse_size(text: str) -> int:
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * factors[text[-1]] if text[-1:] in factors else int(text)


def _count_cpus(text: str) -> int:
    """Count the CPUs of a list as Linux writes it, ``0-3,8``."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    if count < 1:
        raise ValueError(f"no CPU in {text!r}")
    return count
