"""Attention with open sizes whose mask is computed from positions, as exporters write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.onnx_models import GraphBuilder

if TYPE_CHECKING:
    import onnx

HEADS, DIM = 2, 8


@dataclass(frozen=True)
class MaskChoices:
    """How a mask is written.

    Attributes:
        relation: Operator that compares a key's position with its query's, or "Trilu".
        shift: Added to the query's position.
        has_past: Whether queries stand behind a past, whose length is open, too.
        counts_past: Whether their positions count it.
        near: Only keys less than this before the query are seen; 0 for all.
        hidden: Number that is added to the scores of hidden keys; None for a Where on the scores.
        padding: How a mask of keys, an input, is put in: "none", "and", "or" or "added".
    """

    relation: str = "LessOrEqual"
    shift: int = 0
    has_past: bool = False
    counts_past: bool = True
    near: int = 0
    hidden: float | None = float("-inf")
    padding: str = "none"


def open_masked_model(choices: MaskChoices) -> onnx.ModelProto:
    """Return the model: inputs ``q``, ``k``, ``v``, and ``padding`` if it is wanted."""
    build = GraphBuilder(17)
    total = "total" if choices.has_past else "new"
    query = build.input("q", ("batch", HEADS, "new", DIM))
    key, value = (build.input(name, ("batch", HEADS, total, DIM)) for name in "kv")
    rows, columns = _length(build, query), _length(build, key)
    keep = _keep(build, choices, rows, columns)
    if choices.padding != "none":
        padding = build.input("padding", ("batch", total), "int64")
        flags = build.op("Cast", padding, to=9)
        flags = build.op("Unsqueeze", flags, build.constant([1, 2], "int64"))
    if choices.padding in ("and", "or"):
        keep = build.op(choices.padding.capitalize(), keep, flags)
    scores = build.op("MatMul", query, build.op("Transpose", key, perm=[0, 1, 3, 2]))
    if choices.hidden is None:
        scores = build.op("Where", keep, scores, build.constant(float("-inf")))
    else:
        numbers = build.op("Where", keep, build.constant(0.0), build.constant(choices.hidden))
        scores = build.op("Add", scores, numbers)
    if choices.padding == "added":
        far = build.op("Where", flags, build.constant(0.0), build.constant(-1e4))
        scores = build.op("Add", scores, far)
    build.op("MatMul", build.op("Softmax", scores, axis=-1), value, name="y")
    build.output("y", ("batch", HEADS, "new", DIM))
    return build.build()


def _length(build: GraphBuilder, value: str) -> str:
    return build.op("Gather", build.op("Shape", value), build.constant(2, "int64"), axis=0)


def _keep(build: GraphBuilder, choices: MaskChoices, rows: str, columns: str) -> str:
    """Return which keys are seen, ``[rows, columns]``."""
    past = build.op("Sub", columns, rows)
    shift = build.constant(choices.shift, "int64")
    if choices.has_past and choices.counts_past:
        shift = build.op("Add", shift, past)
    zero, one = (build.constant(number, "int64") for number in (0, 1))
    first, last = (build.constant([axis], "int64") for axis in (0, 1))
    column = build.op("Unsqueeze", build.op("Range", zero, columns, one), first)
    row = build.op("Range", zero, rows, one)
    row = build.op("Unsqueeze", build.op("Add", row, shift), last)
    if choices.relation == "Trilu":
        sizes = build.op(
            "Concat", *(build.op("Unsqueeze", each, first) for each in (rows, columns)), axis=0
        )
        ones = build.op("Expand", build.constant(1.0), sizes)
        keep = build.op("Cast", build.op("Trilu", ones, shift, upper=0), to=9)
    else:
        keep = build.op(choices.relation, column, row)
    if choices.near:
        start = build.op("Sub", row, build.constant(choices.near, "int64"))
        keep = build.op("And", keep, build.op("Greater", column, start))
    return keep
