"""The row blocks of a problem under a tiling, in order, and which core works on which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of scores that go through the streams together.

    Attributes:
        matrices: Attention matrices in it, as ``batch * query_heads + head``.
        row: First query row.
        rows: Query rows of each matrix.
        columns: Key rows they see; all of them without causality.
    """

    matrices: tuple[int, ...]
    row: int
    rows: int
    columns: int

    @property
    def num_scores(self) -> int:
        """Scores in it, those on chip but masked by causality included."""
        return len(self.matrices) * self.rows * self.columns


def row_blocks(problem: AttentionProblem, tiling: Tiling) -> list[RowBlock]:
    """Return all row blocks: heads outermost, so that keys and values are used up in one go."""
    blocks = []
    num_matrices = problem.batch * problem.query_heads
    for first in range(0, num_matrices, tiling.heads):
        matrices = tuple(range(first, min(first + tiling.heads, num_matrices)))
        for row in range(0, problem.query_length, tiling.query_rows):
            rows = min(tiling.query_rows, problem.query_length - row)
            columns = problem.kv_length
            if problem.is_causal:
                columns = min(columns, row + rows)
            blocks.append(RowBlock(matrices, row, rows, columns))
    return blocks


def split_over_cores(blocks: list[RowBlock], num_cores: int) -> list[list[RowBlock]]:
    """Return consecutive runs of row blocks of about equal work, one a core; some may be empty.

    Consecutive, so that as few heads as possible are needed by two cores.
    """
    total = sum(block.num_scores for block in blocks)
    shares: list[list[RowBlock]] = [[] for _ in range(num_cores)]
    done = 0
    for block in blocks:
        middle = done + block.num_scores / 2
        shares[min(int(middle * num_cores / total), num_cores - 1)].append(block)
        done += block.num_scores
    return shares


def kv_matrix(matrix: int, problem: AttentionProblem) -> int:
    """Return which key-value matrix, as ``batch * kv_heads + head``, an attention matrix reads."""
    batch, head = divmod(matrix, problem.query_heads)
    return batch * problem.kv_heads + head // problem.group_size


def mask_matrix(matrix: int, problem: AttentionProblem) -> int:
    """Return which matrix of the stored mask an attention matrix reads."""
    if problem.mask_shape is None:
        raise ValueError("the problem has no mask")
    batch, head = divmod(matrix, problem.query_heads)
    mask_batch, mask_heads = problem.mask_shape[:2]
    return (batch if mask_batch > 1 else 0) * mask_heads + (head if mask_heads > 1 else 0)


def kv_tiles(columns: int, kv_columns: int) -> list[tuple[int, int]]:
    """Return (first row, rows) of each key-value tile that covers ``columns``."""
    return [
        (index * kv_columns, min(kv_columns, columns - index * kv_columns))
        for index in range(ceil_div(columns, kv_columns))
    ]
