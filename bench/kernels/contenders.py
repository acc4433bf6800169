"""What takes part in a comparison: our kernels, and what every peer has in common."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.assemble import kernel_parameters
from hocket.compiler.attention.lower import lower_attention
from hocket.hwmodels.loader import load_target
from hocket.runtime.kernels.attention import make_attention_kernel
from kernels.cases import merge_heads, split_heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.compiler.graph.regions import Layout
    from hocket.runtime.workers import WorkerPool
    from kernels.cases import Operands


class NotServedError(Exception):
    """A peer that cannot compute a case, or is not here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case, ready to be timed.

    Attributes:
        run: Does it once.
        result: Returns what the last run computed, ``[batch, heads, rows, columns]``.
        operand_bytes: Of operands and output, what making and running it allocates.
        extra_bytes: Memory it needs besides operands and output; None if that must be measured.
    """

    run: Callable[[], object]
    result: Callable[[], NDArray[np.float32]]
    operand_bytes: int = 0
    extra_bytes: int | None = None


@dataclass(frozen=True)
class Peer(abc.ABC):
    """Another implementation of attention.

    Attributes:
        name: For the table.
        library: What must be installed for it: one of ``kinds.LIBRARIES``.
        keeps_scores: Whether it has all scores in memory at a time.
        uses_mkl: Whether its speed hangs on which kernels Intel's MKL takes.
        compiles: Whether it calls a compiler for each case, which takes seconds and memory.
    """

    name: str
    library: str
    keeps_scores: bool = False
    uses_mkl: bool = False
    compiles: bool = False

    @abc.abstractmethod
    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case.

        Raises:
            NotServedError: It cannot compute this one.
        """


def output_like(operands: Operands) -> NDArray[np.float32]:
    """Return an array for the output, in the layout of the case, written to once."""
    problem = operands.problem
    shape = (1, problem.query_heads, problem.query_length, problem.value_dim)
    output = np.zeros(shape, np.float32)
    return merge_heads(output) if operands.case.is_exported else output


def heads_first(array: NDArray[np.float32], operands: Operands) -> NDArray[np.float32]:
    """Return an output in either layout as ``[batch, heads, rows, columns]``."""
    return array if array.ndim == 4 else split_heads(array, operands.problem.query_heads)


def make_ours(operands: Operands, pool: WorkerPool) -> Contender:
    """Return our kernel as the compiler would put it into a model for this CPU."""
    case, problem = operands.case, operands.problem
    machine = dataclasses.replace(load_target("host"), num_cores=pool.num_threads)
    tiling = lower_attention(problem, machine).best.tiling
    layout: Layout = "bnhd" if case.is_exported else "bhnd"
    layouts = (layout, layout, layout, layout)
    kernel = make_attention_kernel(
        kernel_parameters(problem, layouts, tiling.query_rows, tiling.kv_columns)
    )
    query, key, value = (
        operands.merged if case.is_exported else (operands.query, operands.key, operands.value)
    )
    output = output_like(operands)
    extra_bytes = kernel.scratch_bytes(pool.num_threads)
    bound = kernel.bind(
        query,
        key,
        value,
        mask=operands.mask,
        output=output,
        scratch=np.zeros(extra_bytes, np.uint8),
    )
    return Contender(
        run=lambda: bound.run(pool),
        result=lambda: heads_first(output, operands),
        operand_bytes=output.nbytes,
        extra_bytes=extra_bytes,
    )
