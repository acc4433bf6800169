"""Text of the backward kernel: keys in lanes, blocks of keys against chunks of query rows.

From queries, keys, values, the output and its gradient, and the log-sum-exp of each row, five
products make all gradients: the scores anew, the gradients of the weights, and of these the
gradients of value, key and query. No scores are kept; a block of keys meets a chunk of query rows
once, or twice where the work is divided over more threads than there are heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.runtime.kernels.backward_chunks import (
    WIDTHS,
    address_lines,
    has_positions,
    head_lines,
)
from hocket.runtime.kernels.backward_plan import ARGUMENT_NAMES, REAL_NAMES, scratch_layout
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.source import indent, make_source

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.backward_plan import GradientForm
    from hocket.runtime.kernels.source import KernelSource

ENTRY_NAME = "differentiate"
"""Name of the kernel in its module."""


def backward_source(form: GradientForm, cpu: CpuFeatures) -> KernelSource:
    """Write the kernel of a form for ``cpu``.

    Parameters that differ only in lengths, heads, batch, layouts or scale give the same source:
    those are handed over at the call, see ``backward_plan.ARGUMENT_NAMES``.
    """
    tiles, body = backward_lines(form)
    title = [
        f"gradients of {line}" if place == 0 else line
        for place, line in enumerate(form.forward.title_lines())
    ]
    if form.has_mask_gradient:
        title.append("With the gradient of the mask.")
    return make_source(title, tiles, ENTRY_NAME, body, cpu, ARGUMENT_NAMES, REAL_NAMES)


def backward_lines(form: GradientForm) -> tuple[list[str], list[str]]:
    """Return the lines that name the tiles of a kernel, and those of its function."""
    body = [
        *_setup_lines(form),
        "item = take_item(counter)",
        "while item < num_items:",
        "    following = take_item(counter)",
        *indent(1, _following_lines(form)),
        *indent(1, _item_lines(form)),
        "    item = following",
    ]
    return _tile_lines(form), body


def _tile_lines(form: GradientForm) -> list[str]:
    """Return the lines that name the tiles the driver calls."""
    forward = form.forward
    lanes, element = f"lanes={forward.lanes}", f'element="{form.forward.element}"'
    heads, values = forward.head_dim, forward.value_dim
    storage = f'storage="{forward.storage}"'
    lines = [
        f"fill = transposes.fill_tile({lanes}, {element})",
        f"pack_keys = transposes.pack_tile({lanes}, depth={heads}, {storage})",
        f"pack_values = transposes.pack_tile({lanes}, depth={values}, {storage})",
        f"unpack_keys = transposes.spread_tile({lanes}, depth={heads}, {element})",
        f"unpack_values = transposes.spread_tile({lanes}, depth={values}, {element})",
        f"stage_keys = backward_tiles.stage_tile({lanes}, columns={heads}, {storage})",
        f"add_deltas = backward_tiles.delta_tile({lanes}, columns={values}, {storage})",
        f"clear_heads = backward_tiles.clear_tile({lanes}, columns={heads}, {element})",
        f"clear_values = backward_tiles.clear_tile({lanes}, columns={values}, {element})",
        "multiply_rows = backward_tiles.row_tile(",
        f"    {lanes}, registers={form.registers}, columns={heads}, {element})",
        "score_form = score_gradients.ScoreForm(",
        f'    {element}, base="{forward.base}", scales={forward.has_scaling},',
        f'    mask="{forward.mask}", mask_axes="{forward.mask_axes}",',
        f"    caps={forward.has_softcap}, has_slopes={forward.has_slopes})",
    ]
    if form.widens:
        lines += [
            f"widen_{name} = transposes.widen_tile({lanes}, depth={depth}, {storage})"
            for name, depth in (("heads", heads), ("values", values))
        ]
    if forward.mask_axes == "key":
        kind = f'kind="{forward.mask}"'
        lines.append(f"copy_entries = score_gradients.entry_tile({lanes}, {kind}, {element})")
    if forward.has_slopes:
        lines.append("load_float = work.load_float()")
    if form.has_mask_gradient and forward.mask_axes == "key":
        lines.append(f"add_entries = mask_gradients.entry_sum_tile({lanes}, {element})")
    for vectors in WIDTHS:
        tile = f"{lanes}, rows={forward.tile_rows}, vectors={vectors}"
        product = f'product="{form.forward.element}"'
        rest = f'{product}, key_mask="none", finds_largest=False'
        lines += [
            f"score_heads_{vectors} = matrix.score_tile({tile}, depth={heads}, {rest})",
            f"score_values_{vectors} = matrix.score_tile({tile}, depth={values}, {rest})",
        ]
        tile = f"{lanes}, columns={forward.tile_rows}, vectors={vectors}"
        lines += [
            f"weigh_heads_{vectors} = matrix.weigh_tile({tile}, depth={heads}, {product})",
            f"weigh_values_{vectors} = matrix.weigh_tile({tile}, depth={values}, {product})",
        ]
        tile = f"{lanes}, vectors={vectors}, form=score_form"
        for name, flags in _score_variants(form).items():
            lines.append(f"{name}_{vectors} = score_gradients.score_gradient_tile({tile}, {flags})")
        if form.has_mask_gradient:
            lines.append(
                f"add_mask_{vectors} = mask_gradients.mask_gradient_tile({lanes}, "
                f'vectors={vectors}, mask_axes="{forward.mask_axes}", {element})'
            )
    return lines


def _score_variants(form: GradientForm) -> dict[str, str]:
    """Return the tiles that differentiate scores, by name, with the flags that they are made of."""
    variants = {"differentiate": "hides=False"}
    if has_positions(form):
        variants["differentiate_edge"] = "hides=True"
    if form.has_mask_gradient and form.forward.has_softcap:
        variants |= {
            f"{name}_capped": f"{flags}, before_cap=True" for name, flags in variants.items()
        }
    return variants


def _setup_lines(form: GradientForm) -> list[str]:
    """Return the lines that divide the scratch memory."""
    layout = scratch_layout(form)
    places = {
        "packed_keys": layout.keys,
        "packed_values": layout.values,
        "key_sums": layout.key_sums,
        "value_sums": layout.value_sums,
        "key_rows": layout.key_rows,
        "ones": layout.ones,
        "scores": layout.scores,
        "gradients": layout.gradients,
    }
    if form.forward.mask_axes == "key":
        places |= {"entries": layout.entries, "entry_sums": layout.entry_sums}
    if form.widens:
        places |= {"query_rows": layout.query_rows, "gradient_rows": layout.gradient_rows}
    lines = [f"{name} = scratch + {place}" for name, place in places.items()]
    return [*lines, f"fill(ones, {MAX_VECTORS}, 1.0)"]


def _place_lines(form: GradientForm, item: str) -> list[str]:
    """Return the lines that find where the work of an item begins."""
    part = f"{item} % num_query_parts"
    if form.forward.has_end:
        # Later rows see more keys. Handed out first, they do not hold up the end of the run.
        part = f"(num_query_parts - 1 - {part})"
    return [
        f"first_query = {part} * queries_each",
        f"part = {item} // num_query_parts",
        "first_key = part % num_key_parts * keys_each",
        "part = part // num_key_parts",
        "first_head = part % num_head_parts * heads_each",
        "first_batch = part // num_head_parts * batches_each",
    ]


def _item_lines(form: GradientForm) -> list[str]:
    """Return the lines that do one item: some batches, heads, keys and query rows."""
    return [
        *_place_lines(form, "item"),
        "queries_end = min(first_query + queries_each, query_length)",
        "keys_end = min(first_key + keys_each, kv_length)",
        "heads_end = first_head + heads_each",
        "for batch in range(first_batch, first_batch + batches_each):",
        *indent(1, _batch_lines(form)),
        "    group_head = first_head",
        "    while group_head < heads_end:",
        *indent(2, _group_lines(form)),
        "        group_head = group_end",
    ]


def _following_lines(form: GradientForm) -> list[str]:
    """Return the lines that find the rows of the next item, to have them brought near."""
    return [
        "after = following if following < num_items else item",
        *_place_lines(form, "after"),
        "head = first_head",
        "batch = first_batch",
        "kv_head = head // group_size",
        *address_lines("next_queries", "query", "head"),
        *address_lines("next_query_grads", "query_gradient", "head"),
        *address_lines("next_outputs", "output", "head"),
        *address_lines("next_output_grads", "output_gradient", "head", like="output"),
        *address_lines("next_keys", "key", "kv_head"),
        *address_lines("next_values", "value", "kv_head"),
        "next_queries += first_query * query_row_stride",
        "next_query_grads += first_query * query_gradient_row_stride",
        "next_outputs += first_query * output_row_stride",
        "next_output_grads += first_query * output_row_stride",
        "next_keys += first_key * key_row_stride",
        "next_values += first_key * value_row_stride",
    ]


def _batch_lines(form: GradientForm) -> list[str]:
    """Return the lines that find how many keys a batch has, and where queries stand."""
    forward = form.forward
    lines = ["num_keys = kv_length"]
    if forward.has_kv_lengths:
        lines = ["num_keys = min(max(load_size(kv_lengths, batch), 0), kv_length)"]
    if has_positions(form) or forward.has_slopes:
        counted = " + num_keys - query_length" if forward.counts_from_end else ""
        lines.append(f"stands = query_offset{counted}")
    return [*lines, "seen_keys_end = min(keys_end, num_keys)"]


def _group_lines(form: GradientForm) -> list[str]:
    """Return the lines that do the heads of an item that share a head of keys and values."""
    lanes = form.forward.lanes
    return [
        "kv_head = group_head // group_size",
        "group_end = min((kv_head + 1) * group_size, heads_end)",
        *address_lines("keys", "key", "kv_head"),
        *address_lines("values", "value", "kv_head"),
        *address_lines("key_grads", "key_gradient", "kv_head"),
        *address_lines("value_grads", "value_gradient", "kv_head"),
        "if does_queries:",
        "    for head in range(group_head, group_end):",
        *indent(2, address_lines("queries_out", "query_gradient", "head")),
        "        clear_heads(queries_out + first_query * query_gradient_row_stride,",
        "                    query_gradient_row_stride, queries_end - first_query)",
        *indent(2, address_lines("outputs", "output", "head")),
        *indent(2, address_lines("output_grads", "output_gradient", "head", like="output")),
        "        at = ((batch * query_heads + head) * query_length + first_query)",
        f"        at *= {form.forward.element_bytes}",
        "        at_row = first_query * output_row_stride",
        "        add_deltas(outputs + at_row, output_grads + at_row, output_row_stride,",
        "                   queries_end - first_query, deltas + at)",
        "block = first_key",
        "while block < seen_keys_end:",
        f"    vectors = (seen_keys_end - block + {lanes - 1}) // {lanes}",
        "    # Four are taken as two and two: a tile of one vector would starve.",
        f"    vectors = 2 if vectors == 4 else min(vectors, {MAX_VECTORS})",
        f"    block_keys = min(vectors * {lanes}, seen_keys_end - block)",
        *indent(1, _block_lines(form)),
        "    block += block_keys",
        "if does_keys:",
        "    unseen = max(first_key, seen_keys_end)",
        "    clear_heads(key_grads + unseen * key_gradient_row_stride,",
        "                key_gradient_row_stride, keys_end - unseen)",
        "    clear_values(value_grads + unseen * value_gradient_row_stride,",
        "                 value_gradient_row_stride, keys_end - unseen)",
    ]


def _block_lines(form: GradientForm) -> list[str]:
    """Return the lines that do one block of keys, for all heads that share them."""
    forward = form.forward
    lanes, vector_bytes, row_bytes = forward.lanes, forward.vector_bytes, forward.row_bytes
    lines = [
        "block_start = keys + block * key_row_stride",
        "value_start = values + block * value_row_stride",
        "block_key_grads = key_grads + block * key_gradient_row_stride",
        "block_value_grads = value_grads + block * value_gradient_row_stride",
        "if does_keys:",
        f"    fill(key_sums, {MAX_VECTORS * forward.head_dim}, 0.0)",
        f"    fill(value_sums, {MAX_VECTORS * forward.value_dim}, 0.0)",
        "# The rows that see any of these keys.",
        "rows_begin = first_query",
        "rows_end = queries_end",
    ]
    if forward.has_end:
        lines.append("rows_begin = max(rows_begin, block - stands - right_window)")
    if forward.has_start:
        lines.append("rows_end = min(rows_end, block + block_keys - stands + left_window)")
    return [
        *lines,
        "if rows_begin < rows_end:",
        "    near_keys = next_keys",
        "    near_values = next_values",
        "    if block + block_keys < seen_keys_end:",
        "        near_keys = block_start + block_keys * key_row_stride",
        "        near_values = value_start + block_keys * value_row_stride",
        "    for column in range(vectors):",
        f"        at = column * {vector_bytes}",
        f"        first = column * {lanes}",
        "        last = block_keys - 1 - first",
        "        pack_keys(block_start + first * key_row_stride, key_row_stride, last, key_factor,",
        f"                  packed_keys + at, {row_bytes})",
        "        pack_values(value_start + first * value_row_stride, value_row_stride, last, 1.0,",
        f"                    packed_values + at, {row_bytes})",
        "    if does_queries:",
        "        stage_keys(block_start, key_row_stride, block_keys, scale, key_rows)",
        "    for head in range(group_head, group_end):",
        *indent(2, head_lines(form)),
        "if does_keys:",
        "    for column in range(vectors):",
        f"        at = column * {vector_bytes}",
        f"        first = column * {lanes}",
        "        last = block_keys - 1 - first",
        f"        unpack_keys(key_sums + at, {row_bytes}, scale,",
        "                    block_key_grads + first * key_gradient_row_stride,",
        "                    key_gradient_row_stride, last)",
        f"        unpack_values(value_sums + at, {row_bytes}, 1.0,",
        "                      block_value_grads + first * value_gradient_row_stride,",
        "                      value_gradient_row_stride, last)",
    ]
