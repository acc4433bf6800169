"""Hypothesis strategy for the many ways in which attention is written out."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from hypothesis import strategies as st
from support.onnx_models import CausalForm, Choices, MaskForm, ScalePlace

SIZES = st.integers(1, 5)
FLOAT32_MIN = float(np.finfo(np.float32).min)


@st.composite
def choices(draw: st.DrawFn) -> Choices:
    """Draw a way of writing an attention out, sizes of one included."""
    rank = draw(st.sampled_from([3, 4]))
    batch, heads, rows, columns = (draw(SIZES) for _ in range(4))
    opset = draw(st.sampled_from([11, 12, 13, 17, 18, 21]))
    projected, dynamic = draw(st.booleans()), draw(st.booleans())
    copies = 1
    if rank == 4 and not (projected and dynamic):
        copies = draw(st.integers(1, 3))
        heads *= copies
    full = (batch * heads, rows, columns) if rank == 3 else (batch, heads, rows, columns)
    kept = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
    cut_at = draw(st.integers(0, rank - 1))
    mask_shape = tuple(n if keep else 1 for n, keep in zip(full, kept, strict=True))[cut_at:]
    return Choices(
        batch=batch,
        heads=heads,
        query_length=rows,
        kv_length=columns,
        head_dim=draw(SIZES),
        value_dim=draw(SIZES),
        rank=rank,
        projected=projected,
        key_transposes=draw(st.sampled_from([0, 1, 2])),
        scale_place=draw(st.sampled_from(get_args(ScalePlace))),
        scale_op=draw(st.sampled_from(["Mul", "Div"])),
        scale_left=draw(st.booleans()),
        scale=draw(st.floats(0.05, 2.0)),
        mask=draw(st.sampled_from(get_args(MaskForm))),
        mask_left=draw(st.booleans()),
        mask_shape=mask_shape,
        masked_value=draw(st.sampled_from([-math.inf, FLOAT32_MIN])),
        guard=draw(st.booleans()),
        softmax_axis=draw(st.sampled_from([-1, rank - 1])),
        identities=draw(st.booleans()),
        opset=opset,
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5])),
        copies=copies,
        causal=draw(st.sampled_from(get_args(CausalForm))),
        dynamic=dynamic,
    )
