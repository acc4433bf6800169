"""Hypothesis strategies for the parameters of attention kernels.

A kernel is compiled for its head sizes, the form of its mask, and what it does about causality
and masked rows; that costs most of a second. So these come from a short list that has every form
in it, and everything that a compiled kernel takes as it comes is drawn freely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from hocket.hwmodels.dtypes import DType
from hocket.runtime.kernels.parameters import LAYOUTS, AttentionParameters
from hocket.runtime.kernels.plan import MOST_QUERY_ROWS

FEW_LENGTHS = (1, min(MOST_QUERY_ROWS.values()))
"""Query lengths that the kernel for few query rows is for."""

BLOCK_LENGTHS = (max(MOST_QUERY_ROWS.values()) + 1, 150)
"""Query lengths that the kernel for blocks of query rows is for."""


@dataclass(frozen=True)
class Form:
    """What is compiled into a kernel; ``mask_axes`` as in ``plan.KernelForm``."""

    head_dim: int
    value_dim: int
    mask: str = "none"
    mask_axes: str = "none"
    masked_rows: str = "nan"
    is_causal: bool = False
    dtype: DType = DType.FLOAT32
    has_left_window: bool = False
    has_right_window: bool = False
    has_softcap: bool = False
    has_kv_lengths: bool = False
    counts_from_end: bool = False
    has_slopes: bool = False
    saves_log_sum_exp: bool = False

    @property
    def has_positions(self) -> bool:
        """Whether it matters where queries stand among the keys."""
        return self.is_causal or self.has_left_window or self.has_right_window or self.has_slopes


FORMS = (
    Form(16, 16),
    Form(5, 3, is_causal=True),
    Form(24, 40, "additive", "key"),
    Form(33, 8, "boolean", "key", masked_rows="zero"),
    Form(8, 17, "additive", "both", masked_rows="zero", is_causal=True),
    Form(8, 17, "boolean", "both"),
    Form(3, 9, "additive", "query"),
    Form(3, 9, "boolean", "query", masked_rows="zero"),
    Form(6, 10, is_causal=True, has_left_window=True, saves_log_sum_exp=True),
    Form(7, 5, has_left_window=True, has_right_window=True, has_softcap=True, masked_rows="zero"),
    Form(6, 4, has_kv_lengths=True, has_softcap=True, saves_log_sum_exp=True, masked_rows="zero"),
    Form(
        9,
        12,
        is_causal=True,
        has_kv_lengths=True,
        counts_from_end=True,
        has_slopes=True,
        masked_rows="zero",
    ),
    Form(
        20,
        6,
        "additive",
        "both",
        masked_rows="zero",
        is_causal=True,
        has_left_window=True,
        has_kv_lengths=True,
        has_softcap=True,
        has_slopes=True,
        saves_log_sum_exp=True,
    ),
    Form(18, 20, dtype=DType.FLOAT16, saves_log_sum_exp=True),
    Form(7, 5, "additive", "key", "zero", dtype=DType.FLOAT16, is_causal=True),
    Form(18, 20, dtype=DType.BFLOAT16, saves_log_sum_exp=True),
    Form(34, 7, "additive", "both", "zero", is_causal=True, dtype=DType.BFLOAT16),
    Form(10, 8, "boolean", "key", has_left_window=True, is_causal=True, dtype=DType.BFLOAT16),
    Form(5, 6, has_kv_lengths=True, masked_rows="zero", dtype=DType.BFLOAT16),
    Form(18, 20, dtype=DType.FLOAT64, saves_log_sum_exp=True),
    Form(9, 7, "boolean", "query", "zero", dtype=DType.FLOAT64, is_causal=True),
    Form(
        11,
        6,
        "additive",
        "both",
        masked_rows="zero",
        dtype=DType.FLOAT64,
        has_left_window=True,
        has_right_window=True,
        has_kv_lengths=True,
        has_softcap=True,
        has_slopes=True,
        saves_log_sum_exp=True,
    ),
)

_DEFAULTS: dict[str, Any] = {
    "batch": 1,
    "query_heads": 1,
    "kv_heads": 1,
    "query_length": 16,
    "kv_length": 16,
    "head_dim": 16,
    "value_dim": 16,
    "dtype": DType.FLOAT32,
    "scale": 0.25,
    "mask": "none",
    "mask_shape": None,
    "masked_value": -math.inf,
    "masked_rows": "nan",
    "is_causal": False,
    "query_layout": "bhnd",
    "key_layout": "bhnd",
    "value_layout": "bhnd",
    "output_layout": "bhnd",
    "query_rows": 64,
    "kv_columns": 64,
}


def make_parameters(**changes: Any) -> AttentionParameters:
    """Parameters of a small attention, with these fields changed."""
    return AttentionParameters(**{**_DEFAULTS, **changes})


def parameters_of(form: Form, query_length: int = 16) -> AttentionParameters:
    """Parameters of one attention of a form."""
    rows = query_length
    extents = {
        "none": None,
        "key": (1, 1, 1, 16),
        "query": (1, 1, rows, 1),
        "both": (1, 1, rows, 16),
    }
    return make_parameters(
        query_length=query_length,
        head_dim=form.head_dim,
        value_dim=form.value_dim,
        dtype=form.dtype,
        mask=form.mask,
        mask_shape=extents[form.mask_axes],
        masked_rows=form.masked_rows,
        is_causal=form.is_causal,
        left_window=5 if form.has_left_window else None,
        right_window=3 if form.has_right_window else None,
        softcap=30.0 if form.has_softcap else 0.0,
        has_kv_lengths=form.has_kv_lengths,
        counts_from_end=form.counts_from_end,
        has_slopes=form.has_slopes,
        saves_log_sum_exp=form.saves_log_sum_exp,
    )


@st.composite
def attention_parameters(
    draw: st.DrawFn,
    forms: tuple[Form, ...] = FORMS,
    max_length: int = 150,
    query_lengths: tuple[int, int] | None = None,
) -> AttentionParameters:
    """Parameters of one of ``forms``, with any lengths, heads, layouts, mask shape and tiling."""
    form = draw(st.sampled_from(forms))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    # A mask by query needs more than one row and key, or it is one by key.
    shortest = 1 if form.mask_axes in ("none", "key") else 2
    fewest, most = query_lengths or (1, max_length)
    query_length = draw(st.integers(max(shortest, fewest), most))
    kv_length = draw(st.integers(shortest, max_length))
    batch = draw(st.integers(1, 3))
    mask_shape = None
    if form.mask != "none":
        mask_shape = (
            draw(st.sampled_from((1, batch))),
            draw(st.sampled_from((1, kv_heads * group))),
            1 if form.mask_axes == "key" else query_length,
            1 if form.mask_axes == "query" else draw(_key_extent(form, kv_length)),
        )
    layouts = {
        f"{name}_layout": draw(st.sampled_from(LAYOUTS))
        for name in ("query", "key", "value", "output")
    }
    windows = st.integers(0, max_length)
    return make_parameters(
        dtype=form.dtype,
        query_offset=draw(st.integers(-20, max_length)) if form.has_positions else 0,
        left_window=draw(windows) if form.has_left_window else None,
        right_window=draw(windows) if form.has_right_window else None,
        softcap=draw(st.sampled_from((0.5, 30.0))) if form.has_softcap else 0.0,
        has_kv_lengths=form.has_kv_lengths,
        counts_from_end=form.counts_from_end,
        has_slopes=form.has_slopes,
        saves_log_sum_exp=form.saves_log_sum_exp,
        batch=batch,
        query_heads=kv_heads * group,
        kv_heads=kv_heads,
        query_length=query_length,
        kv_length=kv_length,
        head_dim=form.head_dim,
        value_dim=form.value_dim,
        scale=draw(st.sampled_from((0.0, -0.3, form.head_dim**-0.5, 3.0))),
        mask=form.mask,
        mask_shape=mask_shape,
        masked_value=draw(st.sampled_from((-math.inf, -10000.0, -3.4028234663852886e38))),
        masked_rows=form.masked_rows,
        is_causal=form.is_causal,
        query_rows=draw(st.integers(1, max_length)),
        kv_columns=draw(st.integers(1, max_length)),
        **layouts,
    )


def _key_extent(form: Form, kv_length: int) -> st.SearchStrategy[int]:
    """A mask by key may also have a single entry for all keys."""
    return st.sampled_from((1, kv_length)) if form.mask_axes == "key" else st.just(kv_length)
