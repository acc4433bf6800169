"""What this CPU can do at most, measured: multiply-adds in registers, and reading memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import intp, njit, void

from hocket.calibration.probes import Probe, make_probes
from hocket.calibration.system import read_caches
from hocket.runtime.cpu import detect_cpu
from hocket.runtime.kernels.lanes import FLOAT_BYTES, SIZE, Emitter
from hocket.runtime.kernels.tile import make_tile

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.workers import WorkerPool

# Enough sums that none waits for the one before, and few enough for the registers.
_SUMS = {16: 12, 32: 24}
_TURNS = 1 << 14
# Parts of a run, which workers take one by one: a worker wakes up within one or two of them.
_PARTS_A_WORKER = 16
_REPEATS = 20
_FLOPS_A_LANE = 2  # a multiplication and an addition


class Peaks:
    """The most that the workers of a pool do together, measured anew at each call.

    The best of some runs counts: whatever else the machine does only takes from it. The clock is
    not the same all the time, so measure close to what is to be compared.
    """

    def __init__(self, pool: WorkerPool, *, is_quick: bool) -> None:
        self._pool = pool
        self._is_quick = is_quick
        self._multiply_add = _multiply_add_probe(pool)
        self._read: Probe | None = None

    def flops_per_second(self) -> float:
        """Return float32 operations a second, after some tens of milliseconds."""
        return _best_rate(self._multiply_add, _REPEATS)

    def bytes_per_second(self) -> float:
        """Return bytes read from memory a second, after some hundreds of milliseconds."""
        if self._read is None:
            probes = make_probes(detect_cpu(), read_caches(), self._pool, is_quick=self._is_quick)
            self._read = probes["read_bytes"]
        return _best_rate(self._read, _REPEATS // 2)


def _multiply_add_probe(pool: WorkerPool) -> Probe:
    """Return multiply-adds in registers."""
    cpu = detect_cpu()
    sums = _SUMS[cpu.num_vector_registers]
    multiply_add = _multiply_add_tile(cpu, sums)

    @njit(void(intp, intp), nogil=True)
    def work(address: int, turns: int) -> None:
        multiply_add(address, turns)

    # Far enough apart that no two workers write to one line of cache.
    memory = np.full((pool.num_threads, sums * cpu.vector_lanes + 64), 0.5, np.float32)
    addresses = [row.ctypes.data for row in memory]
    parts = pool.num_threads * _PARTS_A_WORKER

    def run() -> None:
        left = iter(range(parts))

        def take(worker: int) -> None:
            for _ in left:
                work(addresses[worker], _TURNS)

        pool.run(take)

    amount = parts * _TURNS * sums * cpu.vector_lanes * _FLOPS_A_LANE
    return Probe("multiply-adds", amount, run, operands=(memory,))


def _multiply_add_tile(cpu: CpuFeatures, sums: int) -> Any:
    vector_bytes = cpu.vector_lanes * FLOAT_BYTES

    def emit(emitter: Emitter, *, memory: Any, turns: Any) -> None:
        places = [emitter.offset(memory, index * vector_bytes) for index in range(sums)]
        factor = emitter.load(memory)

        def turn(_index: Any, carried: list[Any]) -> list[Any]:
            return [emitter.fused(factor, total, factor) for total in carried]

        totals = emitter.loop(turns, [emitter.load(place) for place in places], turn)
        for total, place in zip(totals, places, strict=True):
            emitter.store(total, place)

    name = f"hocket_bench_multiply_add_{cpu.vector_lanes}_{sums}"
    return make_tile(name, cpu.vector_lanes, {"memory": SIZE, "turns": SIZE}, emit)


def _best_rate(probe: Probe, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        before = time.perf_counter()
        probe.run()
        seconds.append(time.perf_counter() - before)
    return probe.amount / min(seconds)
