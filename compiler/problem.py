"""The sizes of one attention: all that the graph wing and the attention wing share."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.checks import check_integer

if TYPE_CHECKING:
    from hocket.hwmodels.dtypes import DType


MAX_EXTENT = 1 << 24
"""No size of an attention is larger."""

MAX_SCORES = 1 << 50
"""Nor are there more scores: up to here they are counted exactly, in floats, too."""

_SIZES = ("batch", "query_heads", "kv_heads", "query_length", "kv_length", "head_dim", "value_dim")


class MaskKind(enum.Enum):
    """How an explicit mask acts on the scores, before softmax.

    ADDITIVE adds the mask to the scaled scores. BOOLEAN keeps the score where the mask is true
    and puts ``AttentionProblem.masked_value`` where it is false.
    """

    NONE = "none"
    ADDITIVE = "additive"
    BOOLEAN = "boolean"

    def __str__(self) -> str:
        return self.value


class MaskedRows(enum.Enum):
    """What a row of scores becomes in which every entry is minus infinity.

    NAN is what a plain Softmax gives; ZERO is what a NaN guard behind the Softmax, or the standard
    Attention op's own rule, makes of it.
    """

    NAN = "nan"
    ZERO = "zero"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class AttentionProblem:
    """One attention: softmax(scale * query @ key^T, masked) @ value, per batch and query head.

    Attributes:
        batch: Number of independent sequences.
        query_heads: Heads of the query and the output.
        kv_heads: Heads of key and value; divides ``query_heads``. Query head ``h`` reads key-value
            head ``h // (query_heads // kv_heads)``.
        query_length: Rows of the query.
        kv_length: Rows of key and value.
        head_dim: Columns of query and key.
        value_dim: Columns of value and output.
        dtype: Element type of query, key, value and output.
        scale: Factor on the product of query and key.
        mask: Kind of the explicit mask.
        mask_shape: Shape of the mask as it is stored, broadcast to
            ``[batch, query_heads, query_length, kv_length]``; each entry is that size or 1.
            None without a mask.
        masked_value: Score put where a BOOLEAN mask is false.
        masked_rows: What a row becomes whose scores are all minus infinity.
        is_causal: Whether query row ``i`` may see key rows ``j <= i`` only (top-left aligned, as
            the ONNX Attention op without past). Scores above the diagonal are minus infinity.

    Raises:
        ValueError: A size is out of range, the heads do not divide, the scores are too many, or the
            mask contradicts itself.
    """

    batch: int
    query_heads: int
    kv_heads: int
    query_length: int
    kv_length: int
    head_dim: int
    value_dim: int
    dtype: DType
    scale: float
    mask: MaskKind = MaskKind.NONE
    mask_shape: tuple[int, int, int, int] | None = None
    masked_value: float = -math.inf
    masked_rows: MaskedRows = MaskedRows.NAN
    is_causal: bool = False

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_integer(name, getattr(self, name), 1, MAX_EXTENT)
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"kv_heads must divide query_heads, got {self.kv_heads} and {self.query_heads}"
            )
        if math.prod(self.scores_shape) > MAX_SCORES:
            raise ValueError(
                f"scores of shape {self.scores_shape} are too many to count; there may be "
                f"{MAX_SCORES:,}"
            )
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, got {self.scale}")
        if math.isnan(self.masked_value):
            raise ValueError("masked_value must be a number, got nan")
        if not self.dtype.is_floating:
            raise ValueError(f"dtype must be a floating-point type, got {self.dtype}")
        if (self.mask is MaskKind.NONE) != (self.mask_shape is None):
            raise ValueError(f"mask {self.mask} does not go with mask_shape {self.mask_shape}")
        if self.mask_shape is not None:
            for given, full in zip(self.mask_shape, self.scores_shape, strict=True):
                if given not in (1, full):
                    raise ValueError(
                        f"mask of shape {self.mask_shape} does not broadcast to {self.scores_shape}"
                    )

    @property
    def group_size(self) -> int:
        """Query heads that share one key-value head."""
        return self.query_heads // self.kv_heads

    @property
    def scores_shape(self) -> tuple[int, int, int, int]:
        """Shape ``[batch, query_heads, query_length, kv_length]`` of the scores."""
        return (self.batch, self.query_heads, self.query_length, self.kv_length)

    @property
    def num_score_elements(self) -> int:
        """Scores that must be computed; those that causality rules out are not counted."""
        rows, columns = self.query_length, self.kv_length
        if not self.is_causal:
            return self.batch * self.query_heads * rows * columns
        square = min(rows, columns)
        seen = square * (square + 1) // 2 + (rows - square) * columns
        return self.batch * self.query_heads * seen

    @property
    def num_macs(self) -> int:
        """Multiply-accumulates of the two products, for the scores that must be computed."""
        return self.num_score_elements * (self.head_dim + self.value_dim)

    def __str__(self) -> str:
        heads = f"{self.query_heads}"
        if self.kv_heads != self.query_heads:
            heads += f" (kv {self.kv_heads})"
        lengths = f"{self.query_length}x{self.kv_length}"
        dims = f"{self.head_dim}"
        if self.value_dim != self.head_dim:
            dims += f"/{self.value_dim}"
        mask = "" if self.mask is MaskKind.NONE else f", {self.mask} mask"
        causal = ", causal" if self.is_causal else ""
        return (
            f"batch {self.batch}, heads {heads}, lengths {lengths}, dim {dims}, "
            f"{self.dtype}{mask}{causal}"
        )
