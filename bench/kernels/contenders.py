"""What takes part in a comparison: our kernels, and what every peer has in common."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernels.operands import merge_heads, split_heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kernels.operands import Operands


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
