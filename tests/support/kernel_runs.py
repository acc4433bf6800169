"""Runs of attention kernels on memory that shows what they should not have touched."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from support.attention_reference import Operands

    from hocket.runtime.kernels.attention import AttentionKernel

GUARD = 64


class AllAtOnce(WorkerPool):
    """A pool whose workers all start before any of them begins."""

    def run(self, function: Callable[[int], None], max_workers: int | None = None) -> None:
        del max_workers
        start = threading.Barrier(self.num_threads, timeout=30)

        def begin_together(worker: int) -> None:
            start.wait()
            function(worker)

        super().run(begin_together)


def compute(
    kernel: AttentionKernel, operands: Operands, pool: WorkerPool | None = None
) -> NDArray[Any]:
    """Run a kernel on memory full of garbage, in exactly the space it asks for."""
    return compute_all(kernel, operands, pool)[0]


def compute_all(
    kernel: AttentionKernel, operands: Operands, pool: WorkerPool | None = None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the output and, if the kernel saves it, the log-sum-exp."""
    parameters = kernel.parameters
    num_threads = 1 if pool is None else pool.num_threads
    dtype = np.uint16 if parameters.dtype is DType.BFLOAT16 else parameters.dtype.to_numpy()
    output_memory, output = garbage(parameters.output_shape, dtype)
    sums_memory, sums = garbage(parameters.scores_shape[:3], parameters.computed_dtype.to_numpy())
    scratch_memory = np.full(kernel.scratch_bytes(num_threads) + GUARD, 0xFF, np.uint8)
    kernel.bind(
        operands.query,
        operands.key,
        operands.value,
        mask=operands.mask,
        kv_lengths=operands.kv_lengths,
        slopes=operands.slopes,
        output=output,
        log_sum_exp=sums if parameters.saves_log_sum_exp else None,
        scratch=scratch_memory[:-GUARD],
    ).run(pool)
    for memory in (output_memory, sums_memory, scratch_memory):
        assert (memory[-GUARD:] == 0xFF).all()
    return output, sums if parameters.saves_log_sum_exp else None


def garbage(shape: tuple[int, ...], dtype: Any) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return memory with guards behind an array in it.

    All ones is not a number: what is read before it is written shows. And the ends must stay.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.full(size + GUARD, 0xFF, np.uint8)
    return memory, memory[:size].view(dtype).reshape(shape)
