"""Text of one piece of a block of query rows: scores, weights and weighted values, chunk by chunk.

For each chunk of keys a piece computes its scores, turns them to weights column by column, and adds
the weighted values up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.runtime.kernels.matrix import ELEMENT_BYTES, MAX_VECTORS
from hocket.runtime.kernels.source import indent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.runtime.kernels.plan import KernelForm

HIDDEN_SCORE = -1e29
"""Below this are scores that a mask hides, whatever they were and in whatever unit."""

WIDTHS = tuple(range(MAX_VECTORS, 0, -1))
"""Vectors of queries that tiles are made for, the most first."""


def piece_lines(form: KernelForm) -> list[str]:
    """Return the lines that compute one piece: as many queries as fit the widest tile."""
    lanes, vector_bytes, stride = form.lanes, form.vector_bytes, form.row_bytes
    keys_begin, keys_end = "0", "num_keys" if form.has_kv_lengths else "kv_length"
    lines = [
        f"vectors = (end - first + {lanes - 1}) // {lanes}",
        "# Four are taken as two and two: a tile of one vector would starve.",
        f"vectors = 2 if vectors == 4 else min(vectors, {MAX_VECTORS})",
        f"last = min(vectors * {lanes}, end - first) - 1",
        "for column in range(vectors):",
        f"    row = first + column * {lanes}",
        f"    pack(queries + row * query_row_stride, query_row_stride, last - column * {lanes},",
        f"         query_factor, packed + column * {vector_bytes}, {stride})",
        f"after = first + vectors * {lanes}",
        "next_queries = queries + after * query_row_stride if after < end else following_queries",
        "ahead = 0",
        f"fill(weighted, {MAX_VECTORS * form.value_dim}, 0.0)",
        f"fill(largest, {MAX_VECTORS}, -inf)",
        f"fill(previous, {MAX_VECTORS}, -inf)",
        f"fill(sums, {MAX_VECTORS}, 0.0)",
    ]
    if form.has_end:
        # The first key that the piece's first query does not see.
        lines.append("beyond = first + stands + right_window + 1")
        if form.tries_again:
            lines += ["if sees_all:", "    beyond = kv_length"]
        keys_end = f"min({keys_end}, beyond + last)"
    if form.has_start:
        lines.append("foremost = first + stands - left_window")
        if form.tries_again:
            lines += ["if sees_all:", f"    foremost = -{MAX_VECTORS * lanes}"]
        keys_begin = "max(0, foremost)"
    lines += [
        f"keys_end = {keys_end}",
        f"for chunk in range({keys_begin}, keys_end, chunk_rows):",
        "    rows = min(chunk_rows, keys_end - chunk)",
        *indent(1, _score_lines(form)),
        "    for column in range(vectors):",
        *indent(2, _softmax_lines(form)),
        *indent(1, _weigh_lines(form)),
        "    ahead += rows",
        *(_again_lines(form) if form.tries_again else []),
        "for column in range(vectors):",
        f"    at = column * {vector_bytes}",
        f"    row = first + column * {lanes}",
        f"    unpack(weighted + at, {stride}, sums + at,",
        "           outputs + row * output_row_stride, output_row_stride,",
        f"           last - column * {lanes})",
    ]
    if form.saves_log_sum_exp:
        lines += [
            f"    write_log_sum(shift + at, sums + at, log_sums + row * {form.element_bytes},",
            f"                  min(last - column * {lanes}, {lanes - 1}))",
        ]
    return [*lines, "first = after"]


def _again_lines(form: KernelForm) -> list[str]:
    """Return the lines that do a piece once more with all keys, if a query saw none so far.

    Its mask hides all it looked at by a number that swallows scores. So is all else, which has the
    same weight then.
    """
    load = "load_float" if form.element == "float32" else "load_real"
    return [
        "has_seen_all = sees_all",
        "sees_all = 0",
        "if has_seen_all == 0:",
        "    for row in range(last + 1):",
        f"        if {load}(largest, row) < {HIDDEN_SCORE}:",
        "            sees_all = 1",
        "    if sees_all:",
        "        continue",
    ]


def _score_lines(form: KernelForm) -> list[str]:
    """Return the lines that compute the scores of one chunk."""
    lines = ["chunk_keys = keys + chunk * key_row_stride"]
    key_stride = "key_row_stride"
    if form.widens:
        lines.append("widen_keys(chunk_keys, key_row_stride, rows, staged)")
        lines.append("chunk_keys = staged")
        key_stride = str(form.head_dim * form.element_bytes)
    arguments = [f"{key_stride}", "{rows}", "scores{at}", "ahead_keys"]
    if form.product == "bfloat16":
        arguments.append("score_factor")
    if form.mask_axes == "key":
        lines.append("hiding = entries + chunk * mask_column_stride")
        arguments += ["hiding{row}", "mask_column_stride", "masked_value"]
    if form.last_step == "score":
        arguments.append("largest")
    call = "score_{vectors}(packed{column}, chunk_keys{key}, " + ", ".join(arguments) + ")"
    return lines + _segment_lines(
        form,
        call,
        key=f" + done * {key_stride}",
        row=" + done * mask_column_stride",
    )


def _weigh_lines(form: KernelForm) -> list[str]:
    """Return the lines that add up the weighted values of one chunk."""
    lines = ["chunk_values = values + chunk * value_row_stride"]
    value_stride, halves = "value_row_stride", ""
    if form.widens:
        lines.append("widen_values(chunk_values, value_row_stride, rows, staged)")
        value_stride = str(form.value_dim * form.element_bytes)
    if form.product == "bfloat16":
        lines.append("pair_values(chunk_values, value_row_stride, rows, staged)")
        value_stride, halves = str(form.value_dim * ELEMENT_BYTES), " // 2"
    if form.widens or form.product == "bfloat16":
        lines.append("chunk_values = staged")
    if form.has_end:
        lines.append("correction = factors")
    asked = ""
    if form.mask_axes == "both":
        asked = ", asked, mask_row_stride"
        lines += [
            "# A mask is read but once: by the time of the next chunk it should have come.",
            "asked = entries + first * mask_row_stride + (chunk + rows) * mask_column_stride",
            "if chunk + rows >= keys_end:",
            "    asked = entries + after * mask_row_stride if after < end else following_entries",
        ]
    return lines + _segment_lines(
        form,
        "weigh_{vectors}(scores{at}, chunk_values{key}, "
        f"{value_stride}, {{rows}}, weighted{{column}}, {{factors}}{{column}}, "
        f"ahead_values{asked})",
        key=f" + done{halves} * {value_stride}",
        row="",
    )


def _segment_lines(form: KernelForm, call: str, key: str, row: str) -> list[str]:
    """Return the lines that call a tile for all columns and keys of a chunk.

    Where a query sees keys up to some point behind it only, the first column of queries sees
    fewer than the last: keys that all columns see are done first, then those that all but the
    first see, and so on, by narrower tiles.

    Args:
        form: Of the kernel.
        call: Call of the tile, with places for ``vectors``, ``rows``, ``factors``, and what is
            added to addresses of columns, scores, keys and mask entries.
        key: What is added to the address of the chunk's keys, or values.
        row: What is added to the address of the chunk's mask entries.
    """
    weighs = "{factors}" in call
    pairs = weighs and form.product == "bfloat16"
    if not form.has_end:
        whole = "(rows + 1) // 2" if pairs else "rows"
        fields = {"rows": whole, "factors": "factors", "column": "", "at": "", "key": "", "row": ""}
        return _for_each_width("vectors", [call.format(vectors="{}", **fields)])
    vector_bytes, stride = form.vector_bytes, form.row_bytes
    halves = " // 2" if pairs else ""
    fields = {
        "rows": "(count - done + 1) // 2" if pairs else "count - done",
        "factors": "correction",
        "column": " + at",
        "at": f" + done{halves} * {stride} + at",
        "key": key,
        "row": row,
    }
    lines = [
        "done = 0",
        "for column in range(vectors):",
        f"    at = column * {vector_bytes}",
        *indent(1, _count_lines(form)),
        *indent(1, _for_each_width("vectors - column", [call.format(vectors="{}", **fields)])),
        "    done = count",
    ]
    return [*lines, "    correction = ones"] if weighs else lines


def _count_lines(form: KernelForm) -> list[str]:
    """Return the lines that find how many keys of a chunk any query of a column sees."""
    if not form.has_end:
        return ["count = rows"]
    seen = f"beyond + column * {form.lanes} + {form.lanes - 1} - chunk"
    lines = [f"count = min(max({seen}, 0), rows)"]
    if form.product == "bfloat16":
        # Pairs of keys are not split between columns.
        lines.append("count = min((count + 1) // 2 * 2, rows)")
    return lines


def _softmax_lines(form: KernelForm) -> list[str]:
    """Return the lines that turn the scores of one column into weights."""
    lanes, vector_bytes, stride = form.lanes, form.vector_bytes, form.row_bytes
    lines = [f"at = column * {vector_bytes}", "cells = scores + at", *_count_lines(form)]
    if form.has_end or form.has_start or form.has_slopes or form.mask_axes in ("query", "both"):
        lines.append(f"row = first + column * {lanes}")
    if form.has_softcap:
        lines.append(f"cap(cells, {stride}, count, softcap)")
    if form.has_slopes:
        lines.append(f"add_slope(cells, {stride}, count, chunk - row - stands, slope)")
    if form.mask_axes in ("query", "both"):
        lines += [
            "hiding = entries + row * mask_row_stride + chunk * mask_column_stride",
            f"apply_mask(hiding, mask_row_stride, last - column * {lanes}, cells, {stride}, count,",
            f"           masked_value{', largest + at' if form.last_step == 'mask' else ''})",
        ]
    if form.has_end:
        lines += [
            "# Keys up to here are seen by all of the column.",
            f"seen = min(max(beyond + column * {lanes} - chunk, 0), count)",
            f"hide_later(cells + seen * {stride}, {stride}, count - seen,",
            f"           chunk + seen - beyond - column * {lanes} + 1)",
        ]
    if form.has_start:
        lines += [
            "# Keys from here on are seen by all of the column.",
            f"seen = min(max(foremost + column * {lanes} + {lanes - 1} - chunk, 0), count)",
            f"hide_earlier(cells, {stride}, seen, chunk - foremost - column * {lanes})",
        ]
    if form.last_step == "other":
        lines.append(f"raise_largest(cells, {stride}, count, largest + at)")
    return [
        *lines,
        "rescale(largest + at, previous + at, shift + at, factors + at, sums + at)",
        f"exponentiate(cells, {stride}, count, shift + at, sums + at, ahead,",
        f"             next_queries + column * {lanes} * query_row_stride, query_row_stride,",
        f"             outputs + (first + column * {lanes}) * output_row_stride,",
        "             output_row_stride)",
    ]


def _for_each_width(width: str, call: Sequence[str]) -> list[str]:
    """Return the lines that call the tile for as many vectors as ``width``."""
    lines = [f"width = {width}"]
    for place, vectors in enumerate(WIDTHS):
        lines.append(f"{'elif' if place else 'if'} width == {vectors}:")
        lines += indent(1, [line.format(vectors) for line in call])
    return lines
