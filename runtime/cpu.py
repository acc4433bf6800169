"""What the kernels must know of the CPU that will run them: lanes, registers, cache."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm

from hocket.runtime.errors import UnsupportedError

_X86 = ("x86_64", "amd64", "i386", "i486", "i586", "i686")

EXTENSIONS = ("avx512dq", "avx512bf16")
"""Instruction sets, in LLVM's words, that kernels make use of besides wide vectors.

The first splits floats into whole and fraction, the second multiplies pairs of bfloat16.
"""

# Of the first core, on Linux. Elsewhere, and where a virtual machine hides it, the default below.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_L2_BYTES = 512 * 1024


@dataclass(frozen=True)
class CpuFeatures:
    """The vector unit of a CPU and its cache, as far as they shape a kernel.

    Attributes:
        name: LLVM's name of the CPU, ``znver5``.
        vector_lanes: float32 lanes of one vector register: 4, 8 or 16.
        num_vector_registers: Vector registers that a function may use at once: 16 or 32.
        l2_bytes: Size of one core's second-level cache.
        extensions: Those of ``EXTENSIONS`` that it has; they want vectors of 16 lanes.

    Raises:
        UnsupportedError: The lanes or registers are none of these, there is no cache, or an
            extension is unknown or wants wider vectors.
    """

    name: str
    vector_lanes: int
    num_vector_registers: int
    l2_bytes: int = _DEFAULT_L2_BYTES
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vector_lanes not in (4, 8, 16):
            raise UnsupportedError(f"vector_lanes must be 4, 8 or 16, got {self.vector_lanes}")
        if self.num_vector_registers not in (16, 32):
            raise UnsupportedError(
                f"num_vector_registers must be 16 or 32, got {self.num_vector_registers}"
            )
        if self.l2_bytes < 1:
            raise UnsupportedError(f"l2_bytes must be at least 1, got {self.l2_bytes}")
        for extension in self.extensions:
            if extension not in EXTENSIONS or self.vector_lanes != 16:
                raise UnsupportedError(
                    f"extension {extension!r} is not one of {EXTENSIONS}, or the vectors of "
                    f"{self.vector_lanes} lanes are too narrow for it"
                )

    @property
    def cache_key(self) -> str:
        """Text that differs between any two CPUs whose compiled kernels may differ."""
        numbers = f"{self.vector_lanes} {self.num_vector_registers}"
        return " ".join((self.name, numbers, *self.extensions))

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_vector_registers} registers of {self.vector_lanes} float32 "
            f"lanes, L2 {self.l2_bytes // 1024} KiB"
        )


@functools.cache
def detect_cpu() -> CpuFeatures:
    """Return the features of the CPU this process runs on."""
    features = llvm.get_host_cpu_features()
    present = {name for name, is_present in features.items() if is_present}
    machine = llvm.get_default_triple().split("-")[0]
    lanes, registers = vector_unit(machine, present)
    extensions = tuple(name for name in EXTENSIONS if name in present and lanes == 16)
    name = llvm.get_host_cpu_name()
    return CpuFeatures(name, lanes, registers, _detect_l2_bytes(), extensions)


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def vector_unit(machine: str, present: set[str]) -> tuple[int, int]:
    """Return lanes and registers of a CPU described in LLVM's words.

    Args:
        machine: First field of its target triple, ``x86_64`` or ``aarch64``.
        present: LLVM's names of its features, ``{"avx2", "fma"}``.
    """
    if "avx512f" in present:
        return 16, 32
    if {"avx2", "fma"} <= present:
        return 8, 16
    # SSE has 16 registers of four lanes, NEON has 32. What is neither gets the shape of NEON, and
    # LLVM splits vectors as it must.
    return 4, 16 if machine.lower() in _X86 else 32


def _detect_l2_bytes() -> int:
    for cache in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (cache / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if level == "2" and kind != "Instruction" and size.endswith("K") and size[:-1].isdigit():
            return int(size[:-1]) * 1024 or _DEFAULT_L2_BYTES
    return _DEFAULT_L2_BYTES
