"""Our kernels, as the compiler and the torch op would put them to work on this CPU."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.assemble import kernel_parameters
from hocket.compiler.attention.lower import lower_attention
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.kernels.gradients import make_attention_gradient
from hocket.runtime.workers import WorkerPool
from kernels.contenders import Contender, Peer, heads_first, output_like

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.graph.regions import Layout
    from hocket.compiler.problem import AttentionProblem
    from hocket.runtime.kernels.parameters import AttentionParameters
    from kernels.operands import Operands

_UPPER_BITS = 16


def make_ours(operands: Operands, pool: WorkerPool) -> Contender:
    """Return our kernel for the output."""
    problem, is_exported = operands.problem, operands.case.is_exported
    kernel = make_attention_kernel(_parameters(problem, pool, is_exported=is_exported))
    is_half = problem.dtype is DType.BFLOAT16
    given: tuple[NDArray[np.float32] | NDArray[np.uint16], ...]
    if is_half:
        given = operands.upper_halves
    elif is_exported:
        given = operands.merged
    else:
        given = (operands.query, operands.key, operands.value)
    output = output_like(operands)
    written = np.zeros(output.shape, np.uint16) if is_half else output
    scratch = np.zeros(kernel.scratch_bytes(pool.num_threads), np.uint8)
    bound = kernel.bind(*given, mask=operands.mask, output=written, scratch=scratch)

    def result() -> NDArray[np.float32]:
        if is_half:
            output[...] = (written.astype(np.uint32) << _UPPER_BITS).view(np.float32)
        return heads_first(output, operands)

    return Contender(
        run=lambda: bound.run(pool),
        result=result,
        operand_bytes=output.nbytes,
        extra_bytes=scratch.nbytes,
    )


def make_our_gradients(operands: Operands, pool: WorkerPool) -> Contender:
    """Return our kernel for the gradients; the output is computed before it is timed."""
    parameters = dataclasses.replace(
        _parameters(operands.problem, pool, is_exported=False), saves_log_sum_exp=True
    )
    given = (operands.query, operands.key, operands.value)
    forward = make_attention_kernel(parameters)
    output = output_like(operands)
    log_sum_exp = np.zeros(parameters.scores_shape[:3], np.float32)
    forward.bind(
        *given,
        output=output,
        log_sum_exp=log_sum_exp,
        scratch=np.zeros(forward.scratch_bytes(1), np.uint8),
    ).run()
    backward = make_attention_gradient(parameters)
    gradients = [np.zeros_like(array) for array in given]
    scratch = np.zeros(backward.scratch_bytes(pool.num_threads), np.uint8)
    bound = backward.bind(
        *given,
        output=output,
        log_sum_exp=log_sum_exp,
        output_gradient=operands.output_gradient,
        query_gradient=gradients[0],
        key_gradient=gradients[1],
        value_gradient=gradients[2],
        scratch=scratch,
    )
    return Contender(
        run=lambda: bound.run(pool),
        result=lambda: np.concatenate(gradients, axis=2),
        operand_bytes=sum(gradient.nbytes for gradient in gradients),
        extra_bytes=scratch.nbytes,
    )


class OurFloat32(Peer):
    """Our kernel for the same numbers in float32, beside which one in bfloat16 is to pay."""

    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case, see ``contenders.Peer``."""
        case = operands.case
        problem = dataclasses.replace(case.problem, dtype=DType.FLOAT32)
        # The seed of the operands is the same, but not the rounding.
        same = type(operands)(dataclasses.replace(case, problem=problem))
        same.query, same.key, same.value = operands.query, operands.key, operands.value
        pool = WorkerPool(num_threads)
        ours = make_ours(same, pool)
        return dataclasses.replace(ours, extra_bytes=None)


PEERS = (OurFloat32("ours in float32", "hocket"),)


def _parameters(
    problem: AttentionProblem, pool: WorkerPool, *, is_exported: bool
) -> AttentionParameters:
    machine = dataclasses.replace(load_target("host"), num_cores=pool.num_threads)
    tiling = lower_attention(problem, machine).best.tiling
    layout: Layout = "bnhd" if is_exported else "bhnd"
    layouts = (layout, layout, layout, layout)
    return kernel_parameters(problem, layouts, tiling.query_rows, tiling.kv_columns)
