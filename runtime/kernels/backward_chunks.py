"""Text of the innermost loops of the backward kernel: a block of keys against rows of one head.

Products leave the memory idle, so each of them asks for rows that will be needed: those of the
next head or item, the next block of keys, and the gradients that a block ends with. That is worth
3 % of the time with 512 keys, and 10 % with 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.hwmodels.units import align_up
from hocket.runtime.kernels.backward_plan import ROW_STEP
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.source import indent

if TYPE_CHECKING:
    from hocket.runtime.kernels.backward_plan import GradientForm

WIDTHS = tuple(range(MAX_VECTORS, 0, -1))
"""Vectors of keys that tiles are made for."""

# Further than any key is from any query.
_FAR = 1 << 26


def has_positions(form: GradientForm) -> bool:
    """Return whether it matters where queries stand among the keys."""
    return form.forward.has_end or form.forward.has_start


def address_lines(name: str, tensor: str, head: str, like: str | None = None) -> list[str]:
    """Return the lines that find a tensor's rows of one batch and head."""
    strides = like or tensor
    return [
        f"{name} = {tensor} + batch * {strides}_batch_stride",
        f"{name} += {head} * {strides}_head_stride",
    ]


def head_lines(form: GradientForm) -> list[str]:
    """Return the lines that do one block of keys for one head of queries."""
    forward, element_bytes = form.forward, form.forward.element_bytes
    by_key = forward.mask_axes == "key"
    lines = [
        *address_lines("queries", "query", "head"),
        *address_lines("output_grads", "output_gradient", "head", like="output"),
        *address_lines("query_grads", "query_gradient", "head"),
        "head_rows = (batch * query_heads + head) * query_length",
        "begin = first_query * output_row_stride",
        "ahead_queries = next_queries - queries - first_query * query_row_stride",
        "ahead_grads = next_output_grads - output_grads - begin",
        "ahead_outputs = next_outputs - output_grads - begin",
        "ahead_query_grads = next_query_grads - query_grads",
        "ahead_query_grads -= first_query * query_gradient_row_stride",
        "if head + 1 < group_end:",
        "    ahead_queries = query_head_stride",
        "    ahead_grads = output_head_stride",
        "    ahead_outputs = 0",
        "    ahead_query_grads = query_gradient_head_stride",
        "elif block + block_keys < seen_keys_end:",
        "    ahead_queries = (group_head - head) * query_head_stride",
        "    ahead_grads = (group_head - head) * output_head_stride",
        "    ahead_outputs = 0",
        "    ahead_query_grads = (group_head - head) * query_gradient_head_stride",
    ]
    if forward.has_slopes:
        lines.append("slope = load_float(slopes, head) * slope_factor")
    if forward.mask != "none":
        lines += [
            "hiding = mask + batch * mask_batch_stride + head * mask_head_stride",
            "hiding += block * mask_column_stride",
        ]
    if form.has_mask_gradient:
        lines += [
            "mask_grads = mask_gradient + batch * mask_gradient_batch_stride",
            "mask_grads += head * mask_gradient_head_stride",
            "mask_grads += block * mask_gradient_column_stride",
        ]
    if by_key:
        lines.append("copy_entries(hiding, mask_column_stride, block_keys, entries)")
    if form.has_mask_gradient and by_key:
        lines.append(f"fill(entry_sums, {MAX_VECTORS}, 0.0)")
    lines += [
        "row = rows_begin",
        "while row < rows_end:",
        "    # As many rows each, in whole register tiles.",
        "    rows = rows_end - row",
        f"    step = (rows + chunk_rows - 1) // chunk_rows * {ROW_STEP}",
        f"    rows = min((rows + step - 1) // step * {ROW_STEP}, rows)",
        *indent(1, _piece_lines(form)),
        f"    at = (head_rows + row) * {element_bytes}",
        *indent(1, _chunk_lines(form)),
        "    row += rows",
    ]
    if form.has_mask_gradient and by_key:
        lines += [
            "if does_mask:",
            "    add_entries(entry_sums, block_keys, mask_grads, mask_gradient_column_stride)",
        ]
    return lines


def _piece_lines(form: GradientForm) -> list[str]:
    """Return the lines that find the keys of a block that any row of a chunk sees.

    Where a block begins or ends for queries, a few rows see one or two of its vectors only: these
    are a chunk by themselves, done by narrower tiles.
    """
    forward = form.forward
    lanes = forward.lanes
    if not has_positions(form):
        return ["width = vectors"]
    lines = []
    if forward.has_end:
        lines += [
            "# Rows up to the last that sees none of the last vector.",
            f"narrow = block + (vectors - 1) * {lanes} - stands - right_window - row",
            "rows = min(rows, narrow) if narrow > 0 else rows",
        ]
    if forward.has_start:
        lines += [
            "# Rows up to the last that sees some of the first vector.",
            f"narrow = block + {lanes} - stands + left_window - row",
            "rows = min(rows, narrow) if narrow > 0 else rows",
        ]
    first, seen = "0", "block_keys"
    if forward.has_start:
        first = f"max(row + stands - left_window - block, 0) // {lanes}"
    if forward.has_end:
        seen = "min(block_keys, row + rows + stands + right_window - block)"
    lines += [
        f"column = {first}",
        f"piece = block + column * {lanes}",
        f"piece_keys = {seen}",
        f"piece_keys -= column * {lanes}",
        f"width = (piece_keys + {lanes - 1}) // {lanes}",
        "is_edge = False",
    ]
    if forward.has_end:
        lines += [
            f"last = min(piece + width * {lanes}, block + block_keys) - 1",
            "is_edge = row + stands + right_window < last",
        ]
    if forward.has_start:
        lines.append("is_edge = is_edge or row + rows - 1 + stands - left_window > piece")
    return lines


def _chunk_lines(form: GradientForm) -> list[str]:
    """Return the lines that do one block of keys and one chunk of query rows."""
    forward = form.forward
    lines = [
        "chunk_queries = queries + row * query_row_stride",
        "chunk_grads = output_grads + row * output_row_stride",
        "ahead_keys = near_keys - chunk_queries",
        "ahead_values = near_values - chunk_grads",
        "if row > rows_begin:",
        "    ahead_keys = block_key_grads - chunk_queries",
        "    ahead_values = block_value_grads - chunk_grads",
        "    if ahead_outputs != 0:",
        "        ahead_values = ahead_outputs",
    ]
    by_heads, by_values = "query_row_stride", "output_row_stride"
    if form.widens:
        by_heads = str(forward.head_dim * forward.element_bytes)
        by_values = str(forward.value_dim * forward.element_bytes)
        lines += [
            "ahead_queries = ahead_grads = ahead_keys = ahead_values = 0",
            "widen_heads(chunk_queries, query_row_stride, rows, query_rows)",
            "widen_values(chunk_grads, output_row_stride, rows, gradient_rows)",
            "chunk_queries = query_rows",
            "chunk_grads = gradient_rows",
        ]
    shift, block_keys, key_shift = "", "block_keys", ""
    if has_positions(form):
        shift, block_keys = f" + column * {forward.vector_bytes}", "piece_keys"
        key_bytes = align_up(forward.head_dim, forward.lanes) * forward.element_bytes
        key_shift = f" + column * {forward.lanes * key_bytes}"
    calls = [
        f"score_heads_{{}}(packed_keys{shift}, chunk_queries, {by_heads}, rows, scores,",
        "               ahead_queries)",
        f"score_values_{{}}(packed_values{shift}, chunk_grads, {by_values}, rows, gradients,",
        "                ahead_grads)",
        *_differentiate_lines(form),
        "if does_keys:",
        f"    weigh_values_{{}}(scores, chunk_grads, {by_values}, rows, value_sums{shift}, ones,",
        "                   ahead_values)",
        f"    weigh_heads_{{}}(gradients, chunk_queries, {by_heads}, rows, key_sums{shift}, ones,",
        "                  ahead_keys)",
    ]
    return [
        *lines,
        *_for_each_width(calls),
        "if does_queries:",
        f"    multiply_rows(gradients, rows, key_rows{key_shift}, {block_keys},",
        "                  query_grads + row * query_gradient_row_stride,",
        "                  query_gradient_row_stride, ahead_query_grads)",
    ]


def _differentiate_lines(form: GradientForm) -> list[str]:
    """Return the lines that turn scores and gradients of weights into weights and theirs."""
    forward = form.forward
    positions = has_positions(form)
    block, keys = ("piece", "piece_keys") if positions else ("block", "block_keys")
    shift = f" + column * {forward.vector_bytes}" if positions else ""
    arguments = ["scores", "gradients", "rows", "log_sum_exp + at", "deltas + at"]
    if forward.has_softcap:
        arguments.append("softcap")
    if forward.has_slopes:
        arguments += ["slope", f"{block} - row - stands"]
    if forward.mask != "none":
        column = f" + column * {forward.lanes} * mask_column_stride" if positions else ""
        by_row = f"hiding + row * mask_row_stride{column}"
        place = f"entries{shift}" if forward.mask_axes == "key" else by_row
        arguments += [place, "mask_row_stride", keys, "masked_value"]
    # Without an end or a start, one that is far away: it moves on by a key each row.
    seen = [
        "row + stands - left_window - piece" if forward.has_start else f"-{_FAR}",
        "row + stands + right_window + 1 - piece" if forward.has_end else f"{_FAR}",
    ]
    masks = []
    if form.has_mask_gradient:
        column = f" + column * {forward.lanes} * mask_gradient_column_stride"
        column = column if positions else ""
        by_row = f"mask_grads + row * mask_gradient_row_stride{column}"
        place = f"entry_sums{shift}" if forward.mask_axes == "key" else by_row
        masks = [
            "if does_mask:",
            f"    add_mask_{{}}(gradients, rows, {keys}, {place}, mask_gradient_row_stride)",
        ]

    def differentiate(capped: str) -> list[str]:
        plain = f"differentiate{capped}_{{}}({', '.join(arguments)})"
        if not positions:
            return [plain]
        return [
            "if is_edge:",
            f"    differentiate_edge{capped}_{{}}({', '.join([*arguments, *seen])})",
            "else:",
            f"    {plain}",
        ]

    if form.has_mask_gradient and forward.has_softcap:
        lines = [
            "if does_mask:",
            *indent(1, differentiate("_capped")),
            "else:",
            *indent(1, differentiate("")),
        ]
    else:
        lines = differentiate("")
    return lines + masks


def _for_each_width(lines: list[str]) -> list[str]:
    """Return lines that call tiles for as many vectors as a block of keys has."""
    result = []
    for place, vectors in enumerate(WIDTHS):
        result.append(f"{'elif' if place else 'if'} width == {vectors}:")
        result += indent(1, [line.replace("{}", str(vectors)) for line in lines])
    return result
