"""Vector units are recognised from LLVM's features."""

from __future__ import annotations

from typing import Any

import pytest

from hocket.runtime.cpu import CpuFeatures, detect_cpu, vector_unit
from hocket.runtime.errors import UnsupportedError


@pytest.mark.parametrize(
    ("machine", "present", "lanes_and_registers"),
    [
        ("x86_64", {"avx512f", "avx2", "fma"}, (16, 32)),
        ("x86_64", {"avx2", "fma"}, (8, 16)),
        ("x86_64", {"avx2"}, (4, 16)),
        ("AMD64", {"sse2"}, (4, 16)),
        ("aarch64", {"neon"}, (4, 32)),
        ("arm64", {"neon"}, (4, 32)),
        ("riscv64", set(), (4, 32)),
    ],
)
def test_vector_unit_follows_features(
    machine: str, present: set[str], lanes_and_registers: tuple[int, int]
) -> None:
    assert vector_unit(machine, present) == lanes_and_registers


def test_this_cpu_is_described() -> None:
    cpu = detect_cpu()
    assert cpu is detect_cpu()
    assert cpu.name
    assert cpu.l2_bytes >= 64 * 1024
    assert str(cpu.vector_lanes) in str(cpu)


@pytest.mark.parametrize(
    "change", [{"vector_lanes": 5}, {"num_vector_registers": 8}, {"l2_bytes": 0}]
)
def test_impossible_units_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        CpuFeatures(**{"name": "x", "vector_lanes": 4, "num_vector_registers": 32, **change})


def test_cache_key_tells_kernels_apart_but_not_cache_sizes() -> None:
    narrow, wide = CpuFeatures("x", 8, 16), CpuFeatures("x", 16, 32)
    assert narrow.cache_key != wide.cache_key
    assert narrow.cache_key == CpuFeatures("x", 8, 16, l2_bytes=1).cache_key
