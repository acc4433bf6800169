"""Everything a kernel is generated from, checked before a line of text is made of it.

Parameters arrive inside artifacts, and artifacts may come from strangers: each field is checked for
its type and range here, so that the generator can trust what it bakes into source text.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from hocket.hwmodels.dtypes import DType
from hocket.runtime.errors import UnsupportedError

LAYOUTS = ("bhnd", "bnhd")
"""Orders of axes in memory: batch (b), head (h), row (n), column (d)."""

MASKS = ("none", "additive", "boolean")
MASKED_ROWS = ("nan", "zero")
SUPPORTED_DTYPES = (DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)
MAX_HEAD_DIM = 1024
MAX_EXTENT = 1 << 24
MAX_ELEMENTS = 1 << 40
MAX_SOFTCAP = 1e6

_SIZES = (
    "batch",
    "query_heads",
    "kv_heads",
    "query_length",
    "kv_length",
    "head_dim",
    "value_dim",
    "query_rows",
    "kv_columns",
)
_FLAGS = (
    "is_causal",
    "has_kv_lengths",
    "counts_from_end",
    "mask_hides_rest",
    "has_slopes",
    "saves_log_sum_exp",
)
_LAYOUTS = ("query_layout", "key_layout", "value_layout", "output_layout")


@dataclass(frozen=True)
class AttentionParameters:
    """What one attention kernel computes and in which tiles.

    Attributes:
        batch, query_heads, kv_heads, query_length, kv_length, head_dim, value_dim: Sizes, as in
            ``compiler.problem.AttentionProblem``.
        dtype: Element type of query, key, value and output. All but float64 are computed in
            float32; bfloat16 products are summed in it.
        scale: Factor on the product of query and key.
        mask: One of ``MASKS``. An additive mask has ``mask_dtype``, a boolean one is numpy bool.
        mask_shape: Stored shape, rank 4, each entry the full size or 1; None without a mask.
        masked_value: Score put where a boolean mask is false.
        masked_rows: One of ``MASKED_ROWS``: what a row of scores all minus infinity becomes.
        is_causal: Whether row ``i`` sees columns ``j <= i`` only.
        query_layout, key_layout, value_layout, output_layout: Each one of ``LAYOUTS``.
        query_rows: Query rows of one work item (the tiling's row block).
        kv_columns: Key-value rows worked on at a time inside it.
        mask_dtype: Element type of an additive mask; None if it is ``dtype``.
        query_offset: Where queries stand among the keys: row ``i`` stands at key
            ``i + query_offset``. Causality, windows and slopes go by that.
        left_window, right_window: Keys before and after its own that a row sees at most; None
            for all. Causality is a right window of 0.
        softcap: Scores ``s`` become ``softcap * tanh(s / softcap)`` before they are masked; 0 for
            none.
        has_kv_lengths: Whether there is an operand ``kv_lengths``, int64 ``[batch]``: only so many
            keys of a batch are seen, from the first on.
        counts_from_end: With lengths, ``query_offset`` counts from where the queries are the last
            of the keys: row ``i`` stands at key ``i + kv_length - query_length + query_offset``.
        mask_hides_rest: Whether the mask itself hides, by a finite number of -1e30 or less, what
            causality and windows rule out: these then only save work. A row that it hides
            throughout sees all keys alike, those too.
        has_slopes: Whether there is an operand ``slopes``, float32 ``[query_heads]``: a head's
            slope times the distance of key from query is added to the scores (ALiBi).
        saves_log_sum_exp: Whether there is an output ``log_sum_exp``, of ``computed_dtype`` and
            shape ``[batch, query_heads, query_length]``, of what the softmax divided by.

    Raises:
        UnsupportedError: A field has the wrong type, is out of range, or contradicts another.
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
    mask: str
    mask_shape: tuple[int, int, int, int] | None
    masked_value: float
    masked_rows: str
    is_causal: bool
    query_layout: str
    key_layout: str
    value_layout: str
    output_layout: str
    query_rows: int
    kv_columns: int
    mask_dtype: DType | None = None
    query_offset: int = 0
    left_window: int | None = None
    right_window: int | None = None
    softcap: float = 0.0
    has_kv_lengths: bool = False
    counts_from_end: bool = False
    mask_hides_rest: bool = False
    has_slopes: bool = False
    saves_log_sum_exp: bool = False

    def __post_init__(self) -> None:
        for name in _SIZES:
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= MAX_EXTENT:
                raise UnsupportedError(
                    f"{name} must be an integer from 1 to {MAX_EXTENT}, got {size!r}"
                )
            if name in ("head_dim", "value_dim") and size > MAX_HEAD_DIM:
                raise UnsupportedError(f"{name} must be at most {MAX_HEAD_DIM}, got {size}")
        if self.query_heads % self.kv_heads:
            raise UnsupportedError(
                f"kv_heads must divide query_heads, got {self.kv_heads} and {self.query_heads}"
            )
        if math.prod(self.scores_shape) > MAX_ELEMENTS:
            raise UnsupportedError(f"scores of shape {self.scores_shape} are too many to index")
        if type(self.scale) is not float or not math.isfinite(self.scale):
            raise UnsupportedError(f"scale must be a finite float, got {self.scale!r}")
        if type(self.masked_value) is not float or math.isnan(self.masked_value):
            raise UnsupportedError(f"masked_value must be a number, got {self.masked_value!r}")
        choices = {"mask": MASKS, "masked_rows": MASKED_ROWS, **dict.fromkeys(_LAYOUTS, LAYOUTS)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UnsupportedError(f"{name} must be in {allowed}, got {getattr(self, name)!r}")
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                raise UnsupportedError(f"{name} must be true or false, got {getattr(self, name)!r}")
        self._check_dtypes()
        self._check_positions()
        self._check_mask_shape()

    def _check_dtypes(self) -> None:
        if self.dtype not in SUPPORTED_DTYPES:
            names = ", ".join(map(str, SUPPORTED_DTYPES))
            raise UnsupportedError(f"kernels compute in {names}; got {self.dtype}")
        if self.mask_dtype is None:
            return
        if self.mask != "additive":
            raise UnsupportedError(f"mask_dtype is for an additive mask, not {self.mask!r}")
        is_wide = self.dtype is DType.FLOAT64
        if self.mask_dtype not in SUPPORTED_DTYPES or (
            (self.mask_dtype is DType.FLOAT64) != is_wide
        ):
            raise UnsupportedError(
                f"a mask of {self.mask_dtype} cannot be added to scores of {self.dtype}; cast it"
            )

    def _check_positions(self) -> None:
        offset = self.query_offset
        if type(offset) is not int or abs(offset) > MAX_EXTENT:
            raise UnsupportedError(
                f"query_offset must be an integer within +-{MAX_EXTENT}, got {offset!r}"
            )
        for name in ("left_window", "right_window"):
            window = getattr(self, name)
            if window is not None and (type(window) is not int or not 0 <= window <= MAX_EXTENT):
                raise UnsupportedError(
                    f"{name} must be None or an integer from 0 to {MAX_EXTENT}, got {window!r}"
                )
        if type(self.softcap) is not float or not 0 <= self.softcap <= MAX_SOFTCAP:
            raise UnsupportedError(
                f"softcap must be a float from 0 to {MAX_SOFTCAP:g}, got {self.softcap!r}"
            )
        if self.counts_from_end and not self.has_kv_lengths:
            raise UnsupportedError("counts_from_end is for has_kv_lengths; set query_offset")
        if self.mask_hides_rest and (self.mask == "none" or self.saves_log_sum_exp):
            raise UnsupportedError("mask_hides_rest is for a mask, where no gradients are wanted")

    def _check_mask_shape(self) -> None:
        shape = self.mask_shape
        if (self.mask == "none") != (shape is None):
            raise UnsupportedError(f"mask {self.mask!r} does not go with mask_shape {shape}")
        if shape is None:
            return
        if len(shape) != 4 or any(
            type(given) is not int or given not in (1, full)
            for given, full in zip(shape, self.scores_shape, strict=True)
        ):
            raise UnsupportedError(
                f"mask_shape {shape} does not broadcast to {self.scores_shape}; "
                "give rank 4 with full sizes or 1"
            )

    @property
    def scores_shape(self) -> tuple[int, int, int, int]:
        """Shape ``[batch, query_heads, query_length, kv_length]`` of the scores."""
        return (self.batch, self.query_heads, self.query_length, self.kv_length)

    @property
    def computed_dtype(self) -> DType:
        """Element type that is computed in."""
        return DType.FLOAT64 if self.dtype is DType.FLOAT64 else DType.FLOAT32

    @property
    def mask_element(self) -> DType:
        """Element type of the mask."""
        return DType.BOOL if self.mask == "boolean" else self.mask_dtype or self.dtype

    @property
    def last_ahead(self) -> int | None:
        """Keys that row 0 sees after key ``query_offset``, None for all."""
        if self.is_causal:
            return 0
        return self.right_window

    @property
    def query_shape(self) -> tuple[int, int, int, int]:
        """Shape of the query in its layout, rank 4."""
        return _shape(
            self.query_layout, self.batch, self.query_heads, self.query_length, self.head_dim
        )

    @property
    def key_shape(self) -> tuple[int, int, int, int]:
        """Shape of the key in its layout, rank 4."""
        return _shape(self.key_layout, self.batch, self.kv_heads, self.kv_length, self.head_dim)

    @property
    def value_shape(self) -> tuple[int, int, int, int]:
        """Shape of the value in its layout, rank 4."""
        return _shape(self.value_layout, self.batch, self.kv_heads, self.kv_length, self.value_dim)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output in its layout, rank 4."""
        return _shape(
            self.output_layout, self.batch, self.query_heads, self.query_length, self.value_dim
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with one key a field; infinities are spelled as strings."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        fields["dtype"] = self.dtype.value
        fields["mask_dtype"] = None if self.mask_dtype is None else self.mask_dtype.value
        fields["mask_shape"] = None if self.mask_shape is None else list(self.mask_shape)
        if math.isinf(self.masked_value):
            fields["masked_value"] = str(self.masked_value)
        return fields

    @classmethod
    def from_json(cls, fields: object) -> AttentionParameters:
        """Build parameters from a JSON object that nobody has checked.

        Raises:
            UnsupportedError: A key is missing, unknown, or holds what it may not.
        """
        if not isinstance(fields, dict):
            raise UnsupportedError(f"kernel parameters must be an object, got {fields!r}")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            odd = ", ".join(sorted(names ^ set(fields)))
            raise UnsupportedError(f"kernel parameters have missing or unknown keys: {odd}")
        checked = dict(fields)
        for name in ("dtype", "mask_dtype"):
            if name == "dtype" or fields[name] is not None:
                try:
                    checked[name] = DType(fields[name])
                except ValueError as error:
                    raise UnsupportedError(f"unknown {name} {fields[name]!r}") from error
        if fields["masked_value"] in ("inf", "-inf"):
            checked["masked_value"] = float(fields["masked_value"])
        if isinstance(fields["mask_shape"], list):
            checked["mask_shape"] = tuple(fields["mask_shape"])
        return cls(**checked)


def _shape(
    layout: str, batch: int, heads: int, rows: int, columns: int
) -> tuple[int, int, int, int]:
    return (batch, heads, rows, columns) if layout == "bhnd" else (batch, rows, heads, columns)
