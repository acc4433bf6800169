"""The gradients of one attention, ready to run: a compiled kernel and how its work is divided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.units import align_up
from hocket.runtime.cpu import detect_cpu
from hocket.runtime.errors import UnsupportedError
from hocket.runtime.kernel_cache import load_kernels
from hocket.runtime.kernels.backward import ENTRY_NAME, backward_source
from hocket.runtime.kernels.backward_plan import (
    OPERANDS,
    PASS_NAMES,
    gradient_form,
    plan_arguments,
    plan_passes,
    scratch_layout,
)
from hocket.runtime.kernels.operands import (
    check_operand,
    check_optional,
    check_scratch,
    check_written,
)
from hocket.runtime.kernels.plan import SCRATCH_ALIGNMENT

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.backward_plan import GradientForm
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.source import KernelSource
    from hocket.runtime.workers import WorkerPool

_FIRST_PASS_ARGUMENT = len(OPERANDS)


class AttentionGradient:
    """Computes the gradients of an attention from its operands, its output and its log-sum-exp.

    Made by ``make_attention_gradient``. It keeps no memory for a run, so one may run in several
    threads at once, each run with a scratch of its own.

    A key of weight 0, hidden or just far away, gets no gradient whatever it holds, and a row that
    sees no key gives none. Of scores that a boolean mask replaces, the products get none. Slopes
    get no gradient.

    Attributes:
        parameters: The attention. Whether it saves its log-sum-exp is of no concern here.
        form: What the kernel was compiled for.
        source: The text it was compiled from; kernels of equal text share their code.
        function: The compiled code.
        arguments: What it is called with, int64, in the order of ``backward_plan.ARGUMENT_NAMES``,
            without operands and pass.
        worker_bytes: Bytes of scratch that one worker uses.
        deltas_bytes: Bytes of scratch that all workers share: a number for each row of scores.
    """

    def __init__(
        self,
        parameters: AttentionParameters,
        form: GradientForm,
        source: KernelSource,
        function: Callable[..., None],
    ) -> None:
        self.parameters = parameters
        self.form = form
        self.source = source
        self.function = function
        self.arguments = plan_arguments(parameters, form)
        self.worker_bytes = scratch_layout(form).total_bytes
        num_rows = math.prod(parameters.scores_shape[:3])
        self.deltas_bytes = align_up(num_rows * form.forward.element_bytes, SCRATCH_ALIGNMENT)
        self._pass_sizes: dict[int, list[list[int]]] = {}

    def pass_sizes(self, num_threads: int) -> list[list[int]]:
        """Return the integers of ``backward_plan.PASS_NAMES`` of each pass, for so many threads."""
        if num_threads not in self._pass_sizes:
            passes = plan_passes(self.parameters, self.form, num_threads)
            self._pass_sizes[num_threads] = [part.sizes(self.parameters) for part in passes]
        return self._pass_sizes[num_threads]

    def scratch_bytes(self, num_threads: int) -> int:
        """Return the bytes of scratch that ``num_threads`` workers need together.

        A worker keeps some tiles; together they keep one number a row of scores, as long as the
        log-sum-exp, and never the score matrix.
        """
        # One line to align the start, one for the counter of work items.
        return 2 * SCRATCH_ALIGNMENT + self.deltas_bytes + num_threads * self.worker_bytes

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
        log_sum_exp: NDArray[Any],
        output_gradient: NDArray[Any],
        query_gradient: NDArray[Any],
        key_gradient: NDArray[Any],
        value_gradient: NDArray[Any],
        mask_gradient: NDArray[Any] | None = None,
        scratch: NDArray[np.uint8],
    ) -> BoundGradient:
        """Check arrays once, to run on them many times.

        All arrays are C-contiguous, see ``AttentionKernel.bind`` for those it has, too.

        Args:
            query, key, value, mask, kv_lengths, slopes: The operands of the attention.
            output: What it computed.
            log_sum_exp: What it saved.
            output_gradient: Of the dtype and shape of the output.
            query_gradient, key_gradient, value_gradient: Written by each run, in the shape and
                layout of query, key and value. Of the dtype that is computed in, float32 where
                these are of 16 bits: round them when they are complete.
            mask_gradient: Written by each run, in the shape of the mask, of the dtype that is
                computed in; None unless the kernel was made for it.
            scratch: uint8, rank 1, at least ``scratch_bytes`` of the threads that will run.

        Raises:
            ValueError: An array is missing or not wanted, has the wrong type or shape, is too
                small or not contiguous, or must be written to and cannot be.
        """
        parameters = self.parameters
        given, computed = parameters.dtype, parameters.computed_dtype
        for name, array, like, dtype in (
            ("query", query, "query", given),
            ("key", key, "key", given),
            ("value", value, "value", given),
            ("output", output, "output", given),
            ("output_gradient", output_gradient, "output", given),
            ("query_gradient", query_gradient, "query", computed),
            ("key_gradient", key_gradient, "key", computed),
            ("value_gradient", value_gradient, "value", computed),
        ):
            shape = getattr(parameters, f"{like}_shape")
            check_operand(name, array, shape, dtype, getattr(parameters, f"{like}_layout"))
        lengths_shape = (parameters.batch,) if parameters.has_kv_lengths else None
        slopes_shape = (parameters.query_heads,) if parameters.has_slopes else None
        mask_gradient_shape = parameters.mask_shape if self.form.has_mask_gradient else None
        for name, optional, wanted, dtype in (
            ("mask", mask, parameters.mask_shape, parameters.mask_element),
            ("kv_lengths", kv_lengths, lengths_shape, DType.INT64),
            ("slopes", slopes, slopes_shape, DType.FLOAT32),
            ("log_sum_exp", log_sum_exp, parameters.scores_shape[:3], computed),
            ("mask_gradient", mask_gradient, mask_gradient_shape, computed),
        ):
            check_optional(name, optional, wanted, dtype)
        self.check_scratch(scratch, 1)
        written = {
            "query_gradient": query_gradient,
            "key_gradient": key_gradient,
            "value_gradient": value_gradient,
            "mask_gradient": mask_gradient,
        }
        check_written({**written, "scratch": scratch})
        operands = (query, key, value, mask, kv_lengths, slopes, output, log_sum_exp)
        return BoundGradient(self, (*operands, output_gradient, *written.values()), scratch)

    def check_scratch(self, scratch: NDArray[np.uint8], num_threads: int) -> None:
        """Check that the scratch is enough for a number of threads.

        Raises:
            ValueError: It is not.
        """
        check_scratch(scratch, self.scratch_bytes(num_threads), num_threads)


class BoundGradient:
    """A kernel with the arrays it works on, which live as long as this does.

    Made by ``AttentionGradient.bind``, where the arrays are described.
    """

    def __init__(
        self,
        kernel: AttentionGradient,
        operands: tuple[NDArray[Any] | None, ...],
        scratch: NDArray[np.uint8],
    ) -> None:
        self.kernel = kernel
        self.scratch = scratch
        self._operands = operands
        self._mask_gradient = operands[-1]
        start = -scratch.ctypes.data % SCRATCH_ALIGNMENT
        self._counter = scratch[start : start + 8].view(np.int64)
        self._counter_address = scratch.ctypes.data + start
        deltas = self._counter_address + SCRATCH_ALIGNMENT
        self._workers_address = deltas + kernel.deltas_bytes
        self._arguments = kernel.arguments.copy()
        self._arguments[:_FIRST_PASS_ARGUMENT] = [
            *(0 if array is None else array.ctypes.data for array in operands),
            deltas,
        ]

    def run(self, pool: WorkerPool | None = None) -> None:
        """Compute the gradients. The bits written do not depend on the number of threads.

        A second run must not begin before the first has returned: they share the scratch.

        Args:
            pool: Threads to use; None for the calling thread alone.

        Raises:
            ValueError: The scratch is too small for the threads of the pool.
        """
        kernel, num_threads = self.kernel, 1 if pool is None else pool.num_threads
        kernel.check_scratch(self.scratch, num_threads)
        if self._mask_gradient is not None:
            self._mask_gradient[...] = 0
        arguments = self._arguments
        address = arguments.ctypes.data

        def work(worker: int) -> None:
            """Take work items until there are none left."""
            scratch = self._workers_address + worker * kernel.worker_bytes
            kernel.function(address, scratch, self._counter_address)

        for sizes in kernel.pass_sizes(num_threads):
            arguments[_FIRST_PASS_ARGUMENT : _FIRST_PASS_ARGUMENT + len(PASS_NAMES)] = sizes
            self._counter[0] = 0
            if pool is None:
                work(0)
            else:
                pool.run(work, max_workers=sizes[PASS_NAMES.index("num_items")])


def make_attention_gradient(
    parameters: AttentionParameters,
    cpu: CpuFeatures | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    has_mask_gradient: bool = False,
) -> AttentionGradient:
    """Return the kernel for the gradients of ``parameters``, compiled now unless the cache has it.

    Args:
        parameters: The attention.
        cpu: Vector unit to write for; that found by default.
        cache_dir: Folder of the kernel cache, see ``kernel_cache.cache_folder``.
        has_mask_gradient: Whether the gradient of the mask is wanted, too.

    Raises:
        UnsupportedError: The gradient of a mask is wanted that is not added.
        PermissionError: The cache folder belongs to another user.
    """
    if has_mask_gradient and parameters.mask != "additive":
        raise UnsupportedError(f"only an additive mask has a gradient, not {parameters.mask!r}")
    cpu = detect_cpu() if cpu is None else cpu
    form = gradient_form(parameters, cpu, has_mask_gradient=has_mask_gradient)
    source = backward_source(form, cpu)
    function = load_kernels(source, cache_dir)[ENTRY_NAME]
    return AttentionGradient(parameters, form, source, function)
