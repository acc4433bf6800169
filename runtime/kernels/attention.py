"""One attention, ready to run: a compiled kernel and the sizes it is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import detect_cpu
from hocket.runtime.kernel_cache import load_kernels
from hocket.runtime.kernels.generator import ENTRY_NAME, generate_source
from hocket.runtime.kernels.operands import (
    check_operand,
    check_optional,
    check_scratch,
    check_written,
)
from hocket.runtime.kernels.plan import (
    OPERANDS,
    SCRATCH_ALIGNMENT,
    kernel_form,
    make_arguments,
    plan_reals,
)
from hocket.runtime.kernels.schedule import plan_kernel

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.source import KernelSource
    from hocket.runtime.workers import WorkerPool


class AttentionKernel:
    """Computes ``softmax(scale * query @ key^T, masked) @ value`` for one set of parameters.

    Made by ``make_attention_kernel``. It keeps no memory for a run, so one kernel may run in
    several threads at once, each run with a scratch of its own. What is not a number, or infinite,
    goes through as it would through the same formula in float32; only a key that causality or a
    window hides may or may not be read.

    Attributes:
        parameters: What it computes.
        form: What it was compiled for.
        source: The text it was compiled from; kernels of equal text share their code.
        function: The compiled code.
        arguments: What it is called with, int64, in the order of ``plan.ARGUMENT_NAMES``, without
            operands.
        num_work_items: Parts that threads take one by one: blocks of one head's query rows or, of
            few query rows, parts of one head's keys.
        worker_bytes: Bytes of scratch that one worker uses.
        shared_bytes: Bytes of scratch that workers share, besides the counter of work items.
        num_counters: int64 numbers that these begin with, 0 before a run.
    """

    def __init__(
        self,
        parameters: AttentionParameters,
        source: KernelSource,
        function: Callable[..., None],
        cpu: CpuFeatures,
    ) -> None:
        self.parameters = parameters
        self.form = kernel_form(parameters, cpu)
        self.source = source
        self.function = function
        plan = plan_kernel(parameters, self.form)
        self.arguments = make_arguments(plan.sizes, plan_reals(parameters, self.form))
        self.num_work_items = plan.sizes["num_items"]
        self.worker_bytes = plan.worker_bytes
        self.shared_bytes = plan.shared_bytes
        self.num_counters = plan.num_counters

    def scratch_bytes(self, num_threads: int) -> int:
        """Return the bytes of scratch that ``num_threads`` workers need together.

        A worker keeps a few tiles and the scores of three vectors of queries with some keys, never
        the score matrix.
        """
        # One line to align the start, one for the counter of work items.
        return 2 * SCRATCH_ALIGNMENT + self.shared_bytes + num_threads * self.worker_bytes

    def run(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        value: NDArray[Any],
        mask: NDArray[Any] | None,
        output: NDArray[Any],
        scratch: NDArray[np.uint8],
        pool: WorkerPool | None = None,
    ) -> None:
        """Compute ``output`` once: ``bind``, then ``BoundAttention.run``.

        Raises:
            ValueError: As these two.
        """
        self.bind(query, key, value, mask=mask, output=output, scratch=scratch).run(pool)

    def bind(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        value: NDArray[Any],
        *,
        mask: NDArray[Any] | None = None,
        kv_lengths: NDArray[np.int64] | None = None,
        slopes: NDArray[np.float32] | None = None,
        output: NDArray[Any],
        log_sum_exp: NDArray[Any] | None = None,
        scratch: NDArray[np.uint8],
    ) -> BoundAttention:
        """Check arrays once, to run on them many times.

        All arrays are C-contiguous and of the shapes that ``parameters`` names; an operand in
        layout "bnhd" may also come as ``[batch, rows, heads * columns]``. The bits of bfloat16,
        which numpy does not have, come as uint16 or as ``ml_dtypes.bfloat16``.

        Args:
            query, key, value: Of the dtype of the parameters.
            mask: Of the dtype of an additive mask, bool for a boolean one, None without a mask.
            kv_lengths: int64 ``[batch]``, read at each run; less than 0 counts as 0, and more
                than the length of key as that. None unless the parameters have it.
            slopes: float32 ``[query_heads]``; None unless the parameters have it.
            output: Of the dtype of the parameters, written by each run; shares no memory with the
                other arrays.
            log_sum_exp: ``[batch, query_heads, query_length]`` of the dtype that is computed in,
                written by each run; None unless the parameters save it.
            scratch: uint8, rank 1, at least ``scratch_bytes`` of the threads that will run.

        Raises:
            ValueError: An array is missing or not wanted, has the wrong type or shape, is too
                small or not contiguous, or must be written to and cannot be.
        """
        parameters = self.parameters
        of_layouts = {"query": query, "key": key, "value": value, "output": output}
        for name, array in of_layouts.items():
            shape = getattr(parameters, f"{name}_shape")
            check_operand(
                name, array, shape, parameters.dtype, getattr(parameters, f"{name}_layout")
            )
        lengths_shape = (parameters.batch,) if parameters.has_kv_lengths else None
        slopes_shape = (parameters.query_heads,) if parameters.has_slopes else None
        sums_shape = parameters.scores_shape[:3] if parameters.saves_log_sum_exp else None
        for name, given, wanted, dtype in (
            ("mask", mask, parameters.mask_shape, parameters.mask_element),
            ("kv_lengths", kv_lengths, lengths_shape, DType.INT64),
            ("slopes", slopes, slopes_shape, DType.FLOAT32),
            ("log_sum_exp", log_sum_exp, sums_shape, parameters.computed_dtype),
        ):
            check_optional(name, given, wanted, dtype)
        self.check_scratch(scratch, 1)
        check_written({"output": output, "log_sum_exp": log_sum_exp, "scratch": scratch})
        operands = (query, key, value, mask, kv_lengths, slopes, output, log_sum_exp)
        return BoundAttention(self, operands, scratch)

    def check_scratch(self, scratch: NDArray[np.uint8], num_threads: int) -> None:
        """Check that the scratch is enough for a number of threads.

        Raises:
            ValueError: It is not.
        """
        check_scratch(scratch, self.scratch_bytes(num_threads), num_threads)


class BoundAttention:
    """A kernel with the arrays it works on, which live as long as this does.

    Made by ``AttentionKernel.bind``, where the arrays are described.
    """

    def __init__(
        self,
        kernel: AttentionKernel,
        operands: tuple[NDArray[Any] | None, ...],
        scratch: NDArray[np.uint8],
    ) -> None:
        self.kernel = kernel
        self.scratch = scratch
        self._operands = operands
        self._arguments = kernel.arguments.copy()
        self._arguments[: len(OPERANDS)] = [
            0 if array is None else array.ctypes.data for array in operands
        ]
        # Kept, because asking an array for its address costs a microsecond.
        self._arguments_address: int = self._arguments.ctypes.data
        scratch_address = scratch.ctypes.data
        start = -scratch_address % SCRATCH_ALIGNMENT
        counters_end = start + SCRATCH_ALIGNMENT + 8 * kernel.num_counters
        self._counters = scratch[start:counters_end].view(np.int64)
        self._counter_address = scratch_address + start
        self._workers_address = self._counter_address + SCRATCH_ALIGNMENT + kernel.shared_bytes

    def run(self, pool: WorkerPool | None = None) -> None:
        """Compute the output. The bits written do not depend on the number of threads.

        A second run must not begin before the first has returned: they share the scratch.

        Args:
            pool: Threads to use; None for the calling thread alone.

        Raises:
            ValueError: The scratch is too small for the threads of the pool.
        """
        kernel = self.kernel
        if pool is None or pool.num_threads == 1 or kernel.num_work_items == 1:
            self._counters.fill(0)
            self._work(0)
        else:
            kernel.check_scratch(self.scratch, pool.num_threads)
            self._counters.fill(0)
            pool.run(self._work, kernel.num_work_items)

    def _work(self, worker: int) -> None:
        """Take work items until there are none left."""
        kernel = self.kernel
        scratch = self._workers_address + worker * kernel.worker_bytes
        kernel.function(self._arguments_address, scratch, self._counter_address)


def make_attention_kernel(
    parameters: AttentionParameters,
    cpu: CpuFeatures | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> AttentionKernel:
    """Return the kernel for ``parameters``, compiled now unless the cache has it.

    Args:
        parameters: What to compute.
        cpu: Vector unit and cache to write for; those found by default.
        cache_dir: Folder of the kernel cache, see ``kernel_cache.cache_folder``.

    Raises:
        PermissionError: The cache folder belongs to another user.
    """
    cpu = detect_cpu() if cpu is None else cpu
    source = generate_source(parameters, cpu)
    function = load_kernels(source, cache_dir)[ENTRY_NAME]
    return AttentionKernel(parameters, source, function, cpu)
