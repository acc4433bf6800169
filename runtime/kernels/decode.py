"""Text of the kernel for few query rows over many keys, as when one token after the other is made.

There is little to compute and much to read, so keys and values are read once: the rows of all query
heads that share them go through them together, a strip after the other, with an online softmax for
each row. Parts of the keys are work items of their own; the worker that ends the last part of a
head puts them together, always in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.hwmodels.units import ceil_div
from hocket.runtime.kernels.decode_plan import COUNTER_BYTES, near_rows
from hocket.runtime.kernels.decode_products import ROW_COUNTS
from hocket.runtime.kernels.decode_state import row_vectors, state_place, state_vectors
from hocket.runtime.kernels.plan import SCRATCH_ALIGNMENT
from hocket.runtime.kernels.source import indent
from hocket.runtime.kernels.storage import STORAGE_BYTES

if TYPE_CHECKING:
    from hocket.runtime.kernels.plan import KernelForm

# Keys, and values, are asked for so many bytes ahead where one tile reads them. Where several read
# the same, all that they read at a time lies between.
_BYTES_AHEAD = 8 * 1024


def decode_lines(form: KernelForm) -> tuple[list[str], list[str]]:
    """Return the lines that name the tiles of a kernel, and those of its function."""
    body = [
        *_setup_lines(form),
        "item = take_item(counter)",
        "while item < num_items:",
        *indent(1, _item_lines(form)),
        "    if part < num_parts:",
        *indent(2, _part_lines(form)),
        "    item = take_item(counter)",
    ]
    return _tile_lines(form), body


def _tile_lines(form: KernelForm) -> list[str]:
    """Return the lines that name the tiles the driver calls."""
    lanes = f"lanes={form.lanes}"
    # Of tiles that are not told by what they read or multiply.
    plain = lanes if form.element == "float32" else f'{lanes}, element="{form.element}"'
    base = f'base="{form.base}"'
    scales = f"scales={form.has_scaling}"
    depth = f"depth={form.value_dim}"
    packed = "pair" if form.product == "bfloat16" else form.storage
    sums = f"sums={_sums(form)}"
    lines = [
        "end_part = work.end_part()",
        f'pack = decode_products.pack_tile({lanes}, depth={form.score_depth}, storage="{packed}")',
        f"begin = decode_softmax.begin_tile({plain}, {depth})",
        "soften = decode_softmax.soften_tile(",
        f'    {plain}, {depth}, {base}, mask="{form.mask}", mask_axes="{form.mask_axes}",',
        f"    {scales}, has_slopes={form.has_slopes}, has_start={form.has_start})",
        "finish = decode_softmax.finish_tile(",
        f'    {lanes}, {depth}, storage="{form.storage}", masked_rows="{form.masked_rows}",',
        f"    {base}, {scales})",
    ]
    if form.has_softcap:
        lines.append(f"cap = vector.cap_tile({plain})")
    if form.has_slopes:
        lines.append("load_float = work.load_float()")
    if form.saves_log_sum_exp:
        lines.append(f"write_log_sum = vector.log_sum_tile({plain}, {base})")
    for rows in ROW_COUNTS:
        lines += [
            f"dot_{rows} = decode_products.dot_tile(",
            f'    {lanes}, rows={rows}, {sums}, depth={form.score_depth}, storage="{packed}")',
            f"accumulate_{rows} = decode_products.accumulate_tile(",
            f'    {lanes}, rows={rows}, {sums}, {depth}, storage="{form.storage}")',
        ]
    return lines


def _setup_lines(form: KernelForm) -> list[str]:
    """Return the lines that divide the memory, a worker's and that which all share."""
    line = SCRATCH_ALIGNMENT
    most = ROW_COUNTS[0]
    return [
        "num_rows = group_size * query_length",
        f"rows_bytes = num_rows * {_state_bytes(form)}",
        f"own_states = scratch + num_rows * {_query_bytes(form)}",
        "scores = own_states + rows_bytes",
        f"score_stride = chunk_rows * {form.element_bytes}",
        "kv_heads = query_heads // group_size",
        "num_heads = num_items // num_blocks",
        f"parts_ended = counter + {line}",
        f"counters = (num_heads * {COUNTER_BYTES} + {line - 1}) // {line} * {line}",
        "shared_states = parts_ended + counters",
        f"key_rows = {most}",
        *_asking_lines(form, "key", form.head_dim),
        f"value_rows = {_value_rows(form)}",
        *_asking_lines(form, "value", form.value_dim),
    ]


def _asking_lines(form: KernelForm, name: str, depth: int) -> list[str]:
    """Return the lines that find what a tile that reads keys, or values, asks for."""
    ahead = max(ceil_div(_BYTES_AHEAD, depth * STORAGE_BYTES[form.storage]), 1)
    near = near_rows(form, depth)
    return [
        f"{name}_shift = 0",
        f"while 2 * {name}_rows << {name}_shift < num_rows + {name}_rows:",
        f"    {name}_shift += 1",
        f"ahead = {near} if {name}_shift else {ahead}",
        f"{name}_ahead = ahead * {name}_row_stride",
        f"{name}_asked = ({near} >> {name}_shift) * {name}_row_stride",
    ]


def _value_rows(form: KernelForm) -> str:
    """Return how many rows values are multiplied by at most, as an expression.

    The memory likes to be read a whole row of values at a time. With few rows in all, that counts
    for more than to read them once.
    """
    most, fewer = ROW_COUNTS[:2]
    if most * row_vectors(form.lanes, form.value_dim) <= _sums(form):
        return str(most)
    return f"{most} if num_rows > {most} else {fewer}"


def _sums(form: KernelForm) -> int:
    """Return the vectors of sums in registers: half of these, as other register tiles have it."""
    return 16 if form.tile_rows > 4 else 8


def _query_bytes(form: KernelForm) -> int:
    return row_vectors(form.lanes, form.score_depth) * form.vector_bytes


def _state_bytes(form: KernelForm) -> int:
    return state_vectors(form.lanes, form.value_dim) * form.vector_bytes


def _state_offset(form: KernelForm, name: str) -> int:
    return state_place(form.lanes, form.value_dim, name) * form.vector_bytes


def _item_lines(form: KernelForm) -> list[str]:
    """Return the lines that find the keys of a work item."""
    lines = [
        "head = item // num_blocks",
        "part = item % num_blocks",
        "batch = head // kv_heads",
        "kv_head = head % kv_heads",
        "first_head = kv_head * group_size",
    ]
    length = "kv_length"
    if form.has_kv_lengths:
        lines.append("num_keys = min(max(load_size(kv_lengths, batch), 0), kv_length)")
        length = "num_keys"
    if form.has_end or form.has_start or form.has_slopes:
        counted = f" + {length} - query_length" if form.counts_from_end else ""
        lines.append(f"stands = query_offset{counted}")
    # What any row sees. Windows and lengths may leave little of a long cache.
    end = f"min({length}, query_length + stands + right_window)" if form.has_end else length
    begin = "max(stands - left_window, 0)" if form.has_start else "0"
    return [
        *lines,
        f"keys_end = {end}",
        f"keys_begin = {begin}",
        "seen = max(keys_end - keys_begin, 0)",
        "strips = (seen + chunk_rows - 1) // chunk_rows",
        "part_rows = max((strips + num_blocks - 1) // num_blocks * chunk_rows, block_rows)",
        "num_parts = max((seen + part_rows - 1) // part_rows, 1)",
    ]


def _part_lines(form: KernelForm) -> list[str]:
    """Return the lines that go through a part of the keys."""
    return [
        "queries = query + batch * query_batch_stride + first_head * query_head_stride",
        "keys = key + batch * key_batch_stride + kv_head * key_head_stride",
        "values = value + batch * value_batch_stride + kv_head * value_head_stride",
        "states = own_states if num_blocks == 1 else shared_states + item * rows_bytes",
        "begin(states, num_rows)",
        *_for_each_row(
            "source = queries + member * query_head_stride + place * query_row_stride",
            f"pack(source, query_factor, scratch + row * {_query_bytes(form)})",
        ),
        "chunk = keys_begin + part * part_rows",
        "part_end = min(chunk + part_rows, keys_end)",
        "while chunk < part_end:",
        "    count = min(chunk_rows, part_end - chunk)",
        *indent(1, _dot_lines(form)),
        f"    vectors = (count + {form.lanes - 1}) // {form.lanes}",
        *indent(1, _for_each_row(*_soften_lines(form))),
        *indent(1, _accumulate_lines(form)),
        "    chunk += count",
        "ended = 0",
        "if num_parts > 1:",
        f"    ended = end_part(parts_ended + head * {COUNTER_BYTES})",
        "if ended == num_parts - 1:",
        *indent(1, _finish_lines(form)),
    ]


def _for_each_row(*lines: str) -> list[str]:
    """Return lines that are done for row ``row``: row ``place`` of head ``member`` of the group."""
    return [
        "row = 0",
        "for member in range(group_size):",
        "    for place in range(query_length):",
        *indent(2, lines),
        "        row += 1",
    ]


def _dot_lines(form: KernelForm) -> list[str]:
    """Return the lines that compute the scores of a strip."""
    factor = ", score_factor" if form.product == "bfloat16" else ""
    call = (
        f"dot_{{rows}}(scratch + row * {_query_bytes(form)}, near, key_row_stride, some, "
        f"cells + row * score_stride, score_stride, asked, key_shift{factor})"
    )
    return _product_lines(form, "key", form.head_dim, call)


def _accumulate_lines(form: KernelForm) -> list[str]:
    """Return the lines that add the weighted values of a strip."""
    call = (
        "accumulate_{rows}(cells + row * score_stride, score_stride, near, value_row_stride, "
        f"some, states + row * {_state_bytes(form)}, factors, asked, value_shift)"
    )
    # The first values bring what was added up before up to date.
    return [
        f"factors = {_state_offset(form, 'factors')}",
        *_product_lines(form, "value", form.value_dim, call),
        f"    factors = {_state_offset(form, 'ones')}",
    ]


def _product_lines(form: KernelForm, name: str, depth: int, call: str) -> list[str]:
    """Return the lines that call a tile for all keys, or values, of a strip and all rows.

    Args:
        form: Of the kernel.
        name: "key" or "value".
        depth: Columns of these.
        call: Call of the tile, with a place for the number of rows.
    """
    near = near_rows(form, depth)
    lines = [
        f"for first in range(0, count, {near}):",
        f"    some = min({near}, count - first)",
        f"    near = {name}s + (chunk + first) * {name}_row_stride",
        f"    cells = scores + first * {form.element_bytes}",
        f"    asked = near + {name}_ahead",
        "    row = 0",
        "    while row < num_rows:",
    ]
    for place, rows in enumerate(ROW_COUNTS):
        condition = f"{'elif' if place else 'if'} min({name}_rows, num_rows - row) >= {rows}:"
        calls = [call.format(rows=rows), f"row += {rows}"]
        lines += indent(2, ["else:" if rows == 1 else condition, *indent(1, calls)])
    return [*lines, f"        asked += {name}_asked"]


def _soften_lines(form: KernelForm) -> list[str]:
    """Return the lines that turn the scores of one row of a strip to weights."""
    lines = ["cells = scores + row * score_stride"]
    if form.has_softcap:
        lines.append(f"cap(cells, {form.vector_bytes}, vectors, softcap)")
    end = "count"
    if form.has_end:
        end = "min(count, place + stands + right_window + 1 - chunk)"
    arguments = ["cells", "vectors", end, f"states + row * {_state_bytes(form)}"]
    if form.has_start:
        arguments.append("place + stands - left_window - chunk")
    if form.has_slopes:
        lines.append("slope = load_float(slopes, first_head + member) * slope_factor")
        arguments += ["slope", "chunk - place - stands"]
    if form.mask != "none":
        lines += [
            "entries = mask + batch * mask_batch_stride",
            "entries += (first_head + member) * mask_head_stride",
            "entries += place * mask_row_stride + chunk * mask_column_stride",
        ]
        arguments += ["entries", "mask_column_stride", "masked_value"]
    return [*lines, f"soften({', '.join(arguments)})"]


def _finish_lines(form: KernelForm) -> list[str]:
    """Return the lines that put the parts of a head together and write its output."""
    lines = [
        "outputs = output + batch * output_batch_stride + first_head * output_head_stride",
        "if num_blocks > 1:",
        "    states = shared_states + head * num_blocks * rows_bytes",
    ]
    each = [
        f"state = states + row * {_state_bytes(form)}",
        "target = outputs + member * output_head_stride + place * output_row_stride",
        "finish(state, rows_bytes, num_parts, target)",
    ]
    if form.saves_log_sum_exp:
        lines += [
            "log_sums = (batch * query_heads + first_head) * query_length",
            f"log_sums = log_sum_exp + log_sums * {form.element_bytes}",
        ]
        each += [
            f"shift_place = state + {_state_offset(form, 'largest')}",
            f"sums_place = state + {_state_offset(form, 'sums')}",
            f"write_log_sum(shift_place, sums_place, log_sums + row * {form.element_bytes}, 0)",
        ]
    return [*lines, *_for_each_row(*each)]
