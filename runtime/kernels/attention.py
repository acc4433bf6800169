"""One attention, ready to run: a compiled kernel and the sizes it is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.cpu import detect_cpu
from hocket.runtime.kernel_cache import load_kernels
from hocket.runtime.kernels.generator import ENTRY_NAME, generate_source
from hocket.runtime.kernels.plan import (
    SCRATCH_ALIGNMENT,
    SIZE_NAMES,
    kernel_form,
    plan_sizes,
    worker_scratch_bytes,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.generator import KernelSource
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.workers import WorkerPool

_FLOAT32 = np.dtype(np.float32)
_BOOL = np.dtype(np.bool_)
_UINT8 = np.dtype(np.uint8)


class AttentionKernel:
    """Computes ``softmax(scale * query @ key^T, masked) @ value`` for one set of parameters.

    Made by ``make_attention_kernel``. It keeps no memory for a run, so one kernel may run in
    several threads at once, each run with a scratch of its own. What is not a number, or infinite,
    goes through as it would through the same formula in float32; only a key that causality hides
    may or may not be read.

    Attributes:
        parameters: What it computes.
        source: The text it was compiled from; kernels of equal text share their code.
        function: The compiled code.
        sizes: What it is called with, int64, in the order of ``plan.SIZE_NAMES``.
        sizes_address: Where they lie.
        num_work_items: Parts that threads take one by one: each a block of one head's query rows.
        worker_bytes: Bytes of scratch that one worker uses.
    """

    def __init__(
        self,
        parameters: AttentionParameters,
        source: KernelSource,
        function: Callable[..., None],
        cpu: CpuFeatures,
    ) -> None:
        form = kernel_form(parameters, cpu)
        self.parameters = parameters
        self.source = source
        self.function = function
        self.sizes = plan_sizes(parameters, form, cpu.l2_bytes)
        named = dict(zip(SIZE_NAMES, self.sizes.tolist(), strict=True))
        self.num_work_items: int = named["num_items"]
        self.worker_bytes = worker_scratch_bytes(form, named["chunk_rows"])
        # Kept, because asking an array for its address costs a microsecond.
        self.sizes_address: int = self.sizes.ctypes.data

    def scratch_bytes(self, num_threads: int) -> int:
        """Return the bytes of scratch that ``num_threads`` workers need together.

        A worker keeps a few tiles and the scores of three vectors of queries, never the score
        matrix.
        """
        # One line to align the start, one for the counter of work items.
        return 2 * SCRATCH_ALIGNMENT + num_threads * self.worker_bytes

    def run(
        self,
        query: NDArray[np.float32],
        key: NDArray[np.float32],
        value: NDArray[np.float32],
        mask: NDArray[Any] | None,
        output: NDArray[np.float32],
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
        query: NDArray[np.float32],
        key: NDArray[np.float32],
        value: NDArray[np.float32],
        *,
        mask: NDArray[Any] | None,
        output: NDArray[np.float32],
        scratch: NDArray[np.uint8],
    ) -> BoundAttention:
        """Check arrays once, to run on them many times.

        All arrays are C-contiguous and of the shapes that ``parameters`` names; an operand in
        layout "bnhd" may also come as ``[batch, rows, heads * columns]``.

        Args:
            query: float32.
            key: float32.
            value: float32.
            mask: float32 for an additive mask, bool for a boolean one, None without a mask.
            output: float32, written by each run; shares no memory with the other arrays.
            scratch: uint8, rank 1, at least ``scratch_bytes`` of the threads that will run.

        Raises:
            ValueError: An array has the wrong type or shape, is too small or not contiguous, or
                must be written to and cannot be.
        """
        parameters = self.parameters
        _check_operand("query", query, parameters.query_shape, parameters.query_layout)
        _check_operand("key", key, parameters.key_shape, parameters.key_layout)
        _check_operand("value", value, parameters.value_shape, parameters.value_layout)
        _check_operand("output", output, parameters.output_shape, parameters.output_layout)
        self._check_mask(mask)
        if scratch.dtype != _UINT8 or scratch.ndim != 1 or not scratch.flags.c_contiguous:
            raise ValueError(
                f"scratch: want a contiguous uint8 array of rank 1, got {scratch.dtype} of shape "
                f"{list(scratch.shape)}"
            )
        self.check_scratch(scratch, 1)
        for name, array in (("output", output), ("scratch", scratch)):
            if not array.flags.writeable:
                raise ValueError(f"{name}: the array is read-only, and the kernel writes to it")
        return BoundAttention(self, (query, key, value, mask, output), scratch)

    def check_scratch(self, scratch: NDArray[np.uint8], num_threads: int) -> None:
        """Check that the scratch is enough for a number of threads.

        Raises:
            ValueError: It is not.
        """
        wanted = self.scratch_bytes(num_threads)
        if scratch.size < wanted:
            raise ValueError(
                f"scratch: {num_threads} threads want {wanted} bytes, got {scratch.size}; "
                "make it as large as scratch_bytes() says"
            )

    def _check_mask(self, mask: NDArray[Any] | None) -> None:
        shape = self.parameters.mask_shape
        if shape is None:
            if mask is not None:
                raise ValueError("mask: the kernel takes none, but one was given")
        elif mask is None:
            raise ValueError(f"mask: want shape {list(shape)}, got None")
        else:
            dtype = _BOOL if self.parameters.mask == "boolean" else _FLOAT32
            _check_operand("mask", mask, shape, "bhnd", dtype)


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
        self._addresses = [0 if array is None else array.ctypes.data for array in operands]
        scratch_address = scratch.ctypes.data
        start = -scratch_address % SCRATCH_ALIGNMENT
        self._counter = scratch[start : start + 8].view(np.int64)
        counter_address = scratch_address + start
        self._workers_address = counter_address + SCRATCH_ALIGNMENT
        self._numbers = (
            counter_address,
            kernel.sizes_address,
            kernel.parameters.scale,
            kernel.parameters.masked_value,
        )

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
            self._counter[0] = 0
            self._work(0)
        else:
            kernel.check_scratch(self.scratch, pool.num_threads)
            self._counter[0] = 0
            pool.run(self._work, kernel.num_work_items)

    def _work(self, worker: int) -> None:
        """Take work items until there are none left."""
        kernel = self.kernel
        scratch = self._workers_address + worker * kernel.worker_bytes
        kernel.function(*self._addresses, scratch, *self._numbers)


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


def _check_operand(
    name: str,
    array: NDArray[Any],
    shape: tuple[int, int, int, int],
    layout: str,
    dtype: np.dtype[Any] = _FLOAT32,
) -> None:
    """Check that an array is laid out as its parameters say."""
    if array.dtype != dtype:
        raise ValueError(f"{name}: want {dtype}, got {array.dtype}")
    if array.shape != shape:
        merged = (shape[0], shape[1], shape[2] * shape[3])
        if layout != "bnhd" or array.shape != merged:
            raise ValueError(f"{name}: want shape {list(shape)}, got {list(array.shape)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: want a C-contiguous array; copy it with ascontiguousarray()")
