"""The pieces of work that calibration times: the kernels' own tiles, a clock, a read of memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import float32, int64, intp, njit, void

from hocket.hwmodels.dtypes import DType
from hocket.runtime.kernels import vector
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.kernels.parameters import AttentionParameters
from hocket.runtime.kernels.plan import kernel_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.calibration.system import Cache
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.workers import WorkerPool

# Of the attention that is timed, as in BERT. A multiple of the queries of a register tile for all
# vector widths, so that no tile is cut short.
HEAD_DIM = 64
_QUERY_LENGTH = 480
_KV_LENGTH = 512
_HEADS_A_CORE = 4

# A run takes a millisecond or so: what else the computer does then hits some runs, not all, and the
# median passes over it. It is cut into parts, which cores take one by one, so that none waits for
# one that comes late.
_PARTS_A_CORE = 4

# Scores of a column that stays in the first-level cache, and how often a part works through it.
_COLUMN_SCORES = 1 << 12
_COLUMN_TURNS = 1 << 10

_CHAIN_TURNS = 1 << 20
# A turn is an addition and an exclusive or, each waiting for the one before: a cycle each on any
# CPU of today.
_CYCLES_A_TURN = 2

_READ_BYTES = 1 << 29
_QUICK_READ_BYTES = 1 << 27
_MAX_READ_BYTES = 1 << 31
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Probe:
    """A piece of work to be timed.

    Attributes:
        name: What it measures, for people.
        amount: How much work a run does: operations or bytes.
        run: Does it once.
        operands: Arrays that it knows by their addresses, kept alive here.
    """

    name: str
    amount: float
    run: Callable[[], object]
    operands: tuple[object, ...] = ()


def make_probes(
    cpu: CpuFeatures, caches: tuple[Cache, ...], pool: WorkerPool, *, is_quick: bool
) -> dict[str, Probe]:
    """Return what ``measure`` times, but for the clock on all cores of the pool.

    Kernels are compiled now, unless the kernel cache has them.
    """
    return {
        "cycles": _clock_probe(),
        **_vector_probes(cpu, pool),
        "scores": _attention_probe(cpu, pool),
        "read_bytes": _read_probe(pool, _bytes_to_read(caches, is_quick=is_quick)),
    }


def _clock_probe() -> Probe:
    @njit(int64(int64, int64, int64, int64), nogil=True)
    def wait_for_each_other(start: int, addend: int, mask: int, turns: int) -> int:
        value = start
        for _ in range(turns):
            value = (value + addend) ^ mask
        return value

    return Probe(
        "clock",
        _CHAIN_TURNS * _CYCLES_A_TURN,
        lambda: wait_for_each_other(1, 3, 0x5555, _CHAIN_TURNS),
    )


def _vector_probes(cpu: CpuFeatures, pool: WorkerPool) -> dict[str, Probe]:
    """Return the probes of softmax: the kernels' tiles, on a column that stays in cache."""
    lanes = cpu.vector_lanes
    form = kernel_form(_attention_parameters(1), cpu)
    raise_largest = vector.largest_tile(lanes)
    exponentiate = vector.exponential_tile(lanes, form.base, form.has_scaling, pairs=False)

    @njit(void(*[intp] * 5), nogil=True)
    def take_maxima(scores: int, stride: int, rows: int, largest: int, turns: int) -> None:
        for _ in range(turns):
            raise_largest(scores, stride, rows, largest)

    @njit(void(*[intp] * 6), nogil=True)
    def take_exponentials(
        scores: int, stride: int, rows: int, shift: int, sums: int, turns: int
    ) -> None:
        for _ in range(turns):
            # What is asked for on the way lies in the cache already.
            exponentiate(scores, stride, rows, shift, sums, 0, shift, 0, sums, 0)

    rows = _COLUMN_SCORES // lanes
    stride = lanes * 4
    # Exponentials take the place of scores. With a shift of 1 they settle near 1.
    columns = np.zeros((pool.num_threads, rows, lanes), np.float32)
    shift = np.ones(lanes, np.float32)
    # Far enough apart that no two cores write to one line of cache.
    results = np.zeros((pool.num_threads, 64), np.float32)
    operands = (columns, shift, results)
    # Asked for once: it costs a microsecond.
    column_at = [column.ctypes.data for column in columns]
    result_at = [result.ctypes.data for result in results]
    shift_at = shift.ctypes.data

    def maxima(worker: int, _part: int) -> None:
        take_maxima(column_at[worker], stride, rows, result_at[worker], _COLUMN_TURNS)

    def exponentials(worker: int, _part: int) -> None:
        take_exponentials(
            column_at[worker], stride, rows, shift_at, result_at[worker], _COLUMN_TURNS
        )

    parts = _PARTS_A_CORE * pool.num_threads
    amount = parts * _COLUMN_TURNS * _COLUMN_SCORES
    return {
        "maxima": Probe(
            "maxima of scores", amount, lambda: _run_parts(pool, parts, maxima), operands
        ),
        "exponentials": Probe(
            "exponentials of scores",
            amount,
            lambda: _run_parts(pool, parts, exponentials),
            operands,
        ),
    }


def _attention_probe(cpu: CpuFeatures, pool: WorkerPool) -> Probe:
    heads = _HEADS_A_CORE * pool.num_threads
    kernel = make_attention_kernel(_attention_parameters(heads), cpu)
    generator = np.random.default_rng(0)

    def draw(length: int) -> NDArray[np.float32]:
        return generator.standard_normal((1, heads, length, HEAD_DIM), dtype=np.float32)

    query, key, value = draw(_QUERY_LENGTH), draw(_KV_LENGTH), draw(_KV_LENGTH)
    bound = kernel.bind(
        query,
        key,
        value,
        mask=None,
        output=np.empty_like(query),
        scratch=np.zeros(kernel.scratch_bytes(pool.num_threads), np.uint8),
    )
    amount = heads * _QUERY_LENGTH * _KV_LENGTH
    return Probe("attention", amount, lambda: bound.run(pool))


def _attention_parameters(heads: int) -> AttentionParameters:
    return AttentionParameters(
        batch=1,
        query_heads=heads,
        kv_heads=heads,
        query_length=_QUERY_LENGTH,
        kv_length=_KV_LENGTH,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        dtype=DType.FLOAT32,
        scale=HEAD_DIM**-0.5,
        mask="none",
        mask_shape=None,
        masked_value=-math.inf,
        masked_rows="nan",
        is_causal=False,
        query_layout="bhnd",
        key_layout="bhnd",
        value_layout="bhnd",
        output_layout="bhnd",
        query_rows=_QUERY_LENGTH // 2,
        kv_columns=_KV_LENGTH,
    )


def _bytes_to_read(caches: tuple[Cache, ...], *, is_quick: bool) -> int:
    """Return how large an array must be that hardly any of it stays in a cache."""
    largest = max((cache.size_bytes for cache in caches), default=0)
    wanted = max(_QUICK_READ_BYTES if is_quick else _READ_BYTES, 4 * largest)
    return min(wanted, _MAX_READ_BYTES)


def _read_probe(pool: WorkerPool, size_bytes: int) -> Probe:
    @njit(float32(float32[::1]), nogil=True, fastmath=True)
    def add_up(chunk: NDArray[np.float32]) -> np.float32:
        total = np.float32(0)
        for index in range(chunk.size):
            total += chunk[index]
        return total

    # Ones, not zeros: memory that was never written to need not be there.
    data = np.ones(size_bytes // 4, np.float32)
    chunks = np.split(data, range(_CHUNK_BYTES // 4, data.size, _CHUNK_BYTES // 4))
    return Probe(
        "reading memory",
        data.nbytes,
        lambda: _run_parts(pool, len(chunks), lambda _worker, part: add_up(chunks[part])),
    )


def _run_parts(pool: WorkerPool, parts: int, function: Callable[[int, int], object]) -> None:
    """Call ``function(worker, part)`` for each part, on whichever worker is free."""
    places = itertools.count()

    def work(worker: int) -> None:
        while (part := next(places)) < parts:
            function(worker, part)

    pool.run(work, parts)
