"""The sizes of one attention: all that the graph wing and the attention wing share."""

from __future__ import annotations

import dataclasses
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
class ScoreRules:
    """What acts on scores besides scale, mask and the causality of ``AttentionProblem``.

    Kernels follow these rules. Programs for a machine are planned as if there were none: every
    score counts that the problem without them has.

    Attributes:
        query_offset: Where queries stand among the keys: row ``i`` stands at key
            ``i + query_offset``, which is what windows go by.
        left_window, right_window: Keys before and after its own that a row sees at most; None for
            all. A right window of 0 is causality, wherever queries stand.
        softcap: Scores ``s`` become ``softcap * tanh(s / softcap)`` before they are masked; 0 for
            none.
        has_kv_lengths: Whether an operand says how many keys of each batch are seen.
        counts_from_end: With lengths, ``query_offset`` counts from where the queries are the last
            of the keys that are seen.
        mask_hides_rest: Whether the mask itself hides, by a finite number, what causality and
            windows rule out. A row that it hides throughout sees all keys alike, and is computed
            as if there were neither.

    Raises:
        ValueError: A number is out of range, or the rules contradict each other.
    """

    query_offset: int = 0
    left_window: int | None = None
    right_window: int | None = None
    softcap: float = 0.0
    has_kv_lengths: bool = False
    counts_from_end: bool = False
    mask_hides_rest: bool = False

    def __post_init__(self) -> None:
        check_integer("query_offset", self.query_offset, -MAX_EXTENT, MAX_EXTENT)
        for name in ("left_window", "right_window"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0, MAX_EXTENT)
        if not (math.isfinite(self.softcap) and self.softcap >= 0):
            raise ValueError(f"softcap must be finite and not negative, got {self.softcap}")
        if self.counts_from_end and not self.has_kv_lengths:
            raise ValueError("counts_from_end is for has_kv_lengths; set query_offset")

    def __str__(self) -> str:
        words = []
        if self.right_window == 0:
            words.append("causal")
        if self.query_offset:
            words.append(f"queries from key {self.query_offset}")
        if self.left_window is not None or self.right_window:
            sides = ["all" if side is None else str(side) for side in self._windows]
            words.append(f"window {sides[0]} before, {sides[1]} after")
        if self.softcap:
            words.append(f"softcap {self.softcap:g}")
        if self.has_kv_lengths:
            words.append("key lengths")
        return ", ".join(words)

    @property
    def _windows(self) -> tuple[int | None, int | None]:
        return self.left_window, self.right_window


NO_RULES = ScoreRules()


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
        rules: What else acts on the scores.

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
    rules: ScoreRules = NO_RULES

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
        if self.rules.mask_hides_rest and self.mask is MaskKind.NONE:
            raise ValueError("mask_hides_rest is for a problem with a mask")
        if self.mask_shape is not None:
            for given, full in zip(self.mask_shape, self.scores_shape, strict=True):
                if given not in (1, full):
                    raise ValueError(
                        f"mask of shape {self.mask_shape} does not broadcast to {self.scores_shape}"
                    )

    @property
    def planned(self) -> AttentionProblem:
        """The problem that programs are planned for: this one without its rules."""
        return self if self.rules == NO_RULES else dataclasses.replace(self, rules=NO_RULES)

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
        rules = f", {self.rules}" if self.rules != NO_RULES else ""
        return (
            f"batch {self.batch}, heads {heads}, lengths {lengths}, dim {dims}, "
            f"{self.dtype}{mask}{causal}{rules}"
        )
