"""Text of the kernel for blocks of query rows: queries in lanes, an online softmax over chunks.

A work item is a block of one head's query rows. It is done in pieces of as many queries as fit the
widest register tile, see ``row_block_pieces``.

A worker takes its next item before it begins one, so that queries, keys and values it will need
can be asked for between products, which leave the memory idle. That is worth 5 % of the time with
512 keys, and 20 % with 192.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.plan import SCRATCH_ALIGNMENT, STATISTICS, scratch_layout
from hocket.runtime.kernels.row_block_pieces import WIDTHS, piece_lines
from hocket.runtime.kernels.source import indent

if TYPE_CHECKING:
    from hocket.runtime.kernels.plan import KernelForm

# Rows of value that are asked for before they are used.
_VALUES_AHEAD = 16


def row_block_lines(form: KernelForm) -> tuple[list[str], list[str]]:
    """Return the lines that name the tiles of a kernel, and those of its function."""
    body = [
        *_setup_lines(form),
        "item = take_item(counter)",
        "while item < num_items:",
        "    following = take_item(counter)",
        *indent(1, _following_lines(form)),
        *indent(1, _item_lines(form)),
        "    while first < end:",
        *indent(2, piece_lines(form)),
        "    item = following",
    ]
    return _tile_lines(form), body


def _tile_lines(form: KernelForm) -> list[str]:
    """Return the lines that name the tiles the driver calls."""
    lanes = f"lanes={form.lanes}"
    # Of tiles that are not told by what they read or multiply.
    plain = lanes if form.element == "float32" else f'{lanes}, element="{form.element}"'
    key_mask = form.mask if form.mask_axes == "key" else "none"
    base = f'{plain}, base="{form.base}"'
    scales = f"{base}, scales={form.has_scaling}"
    pairs = form.product == "bfloat16"
    packed = "pair" if pairs else form.storage
    lines = [
        f"fill = transposes.fill_tile({plain})",
        f'pack = transposes.pack_tile({lanes}, depth={form.score_depth}, storage="{packed}")',
        "unpack = transposes.unpack_tile(",
        f"    {lanes}, depth={form.value_dim},",
        f'    storage="{form.storage}", masked_rows="{form.masked_rows}")',
        f"rescale = vector.rescale_tile({scales})",
        f"exponentiate = vector.exponential_tile({scales}, pairs={pairs})",
    ]
    if form.widens:
        lines += [
            f"widen_{name} = transposes.widen_tile("
            f'{lanes}, depth={depth}, storage="{form.storage}")'
            for name, depth in (("keys", form.head_dim), ("values", form.value_dim))
        ]
    if pairs:
        lines.append(f"pair_values = transposes.pair_tile({lanes}, depth={form.value_dim})")
    if form.has_softcap:
        lines.append(f"cap = vector.cap_tile({plain})")
    if form.has_slopes:
        lines.append(f"add_slope = vector.slope_tile({plain})")
    if form.has_slopes or (form.tries_again and form.element == "float32"):
        lines.append("load_float = work.load_float()")
    if form.mask_axes == "both":
        finds = form.last_step == "mask"
        lines += [
            "apply_mask = masks.mask_tile(",
            f'    {plain}, kind="{form.mask}", finds_largest={finds})',
        ]
    if form.mask_axes == "query":
        lines.append(f'apply_mask = masks.query_mask_tile({plain}, kind="{form.mask}")')
    if form.has_end:
        lines.append(f"hide_later = masks.hide_tile({plain}, later=True)")
    if form.has_start:
        lines.append(f"hide_earlier = masks.hide_tile({plain}, later=False)")
    if form.last_step == "other":
        lines.append(f"raise_largest = vector.largest_tile({plain})")
    if form.saves_log_sum_exp:
        lines.append(f"write_log_sum = vector.log_sum_tile({base})")
    for vectors in WIDTHS:
        lines += [
            f"score_{vectors} = matrix.score_tile(",
            f"    {lanes}, rows={form.tile_rows}, vectors={vectors}, depth={form.score_depth},",
            f'    product="{form.product}", key_mask="{key_mask}",',
            f"    finds_largest={form.last_step == 'score'})",
            f"weigh_{vectors} = matrix.weigh_tile(",
            f"    {lanes}, columns={form.tile_rows}, vectors={vectors}, depth={form.value_dim},",
            f'    product="{form.product}", asks={form.mask_axes == "both"})',
        ]
    return lines


def _setup_lines(form: KernelForm) -> list[str]:
    """Return the lines that divide the scratch memory."""
    # Scores come last, because only they are the larger the longer a chunk is.
    layout = scratch_layout(form, 0)
    lines = [
        f"packed = scratch + {layout.queries}",
        f"weighted = scratch + {layout.output}",
    ]
    lines += [
        f"{name} = scratch + {layout.statistics + place * layout.row_bytes}"
        for place, name in enumerate(STATISTICS)
    ]
    if form.widens or form.product == "bfloat16":
        lines.append(f"staged = scratch + {layout.staged}")
    lines += [
        f"scores = scratch + {_scores_place(form)}",
        f"fill(ones, {MAX_VECTORS}, 1.0)",
    ]
    return lines


def _scores_place(form: KernelForm) -> str:
    """Return where scores begin, as an expression: behind what is staged, on a cache line."""
    start = scratch_layout(form, 0).staged
    staged = f"(chunk_rows + 1) // 2 * {2 * form.staged_row_bytes}"
    last = SCRATCH_ALIGNMENT - 1
    return f"({start + last} + {staged}) // {SCRATCH_ALIGNMENT} * {SCRATCH_ALIGNMENT}"


def _block_of(form: KernelForm, item: str) -> str:
    """Return the block of query rows that is done as some item, as an expression."""
    # Later blocks see more keys. Handed out first, they do not hold up the end of the run.
    return f"num_blocks - 1 - {item} % num_blocks" if form.has_end else f"{item} % num_blocks"


def _following_lines(form: KernelForm) -> list[str]:
    """Return the lines that find the operands of the next item, to have them brought near."""
    lines = [
        "after = following if following < num_items else item",
        "head = after // num_blocks",
        f"block = {_block_of(form, 'after')}",
        "next_batch = head // query_heads",
        "head = head % query_heads",
        "following_queries = query + next_batch * query_batch_stride + head * query_head_stride",
        "following_queries += block * block_rows * query_row_stride",
        "next_kv_head = head // group_size",
    ]
    if form.mask_axes == "both":
        lines += [
            "following_entries = mask + next_batch * mask_batch_stride + head * mask_head_stride",
            "following_entries += block * block_rows * mask_row_stride",
        ]
    return lines


def _item_lines(form: KernelForm) -> list[str]:
    """Return the lines that find the operands of a work item: a block of one head's queries."""
    lines = [
        f"block = {_block_of(form, 'item')}",
        "head = item // num_blocks",
        "batch = head // query_heads",
        "head = head % query_heads",
        "kv_head = head // group_size",
        "queries = query + batch * query_batch_stride + head * query_head_stride",
        "keys = key + batch * key_batch_stride + kv_head * key_head_stride",
        "values = value + batch * value_batch_stride + kv_head * value_head_stride",
        "outputs = output + batch * output_batch_stride + head * output_head_stride",
    ]
    if form.mask != "none":
        lines.append("entries = mask + batch * mask_batch_stride + head * mask_head_stride")
    if form.has_slopes:
        lines.append("slope = load_float(slopes, head) * slope_factor")
    if form.saves_log_sum_exp:
        lines += [
            "log_sums = log_sum_exp",
            f"log_sums += (batch * query_heads + head) * query_length * {form.element_bytes}",
        ]
    length = "kv_length"
    if form.has_kv_lengths:
        lines.append("num_keys = min(max(load_size(kv_lengths, batch), 0), kv_length)")
        length = "num_keys"
    if form.has_end or form.has_start or form.has_slopes:
        counted = f" + {length} - query_length" if form.counts_from_end else ""
        lines.append(f"stands = query_offset{counted}")
    # The same rows of another head, or, where the next item has the same keys, what comes next.
    lines += [
        "next_keys = key + next_batch * key_batch_stride + next_kv_head * key_head_stride",
        "ahead_keys = next_keys - keys",
        "if ahead_keys == 0:",
        f"    ahead_keys = {form.tile_rows} * key_row_stride",
        "next_values = value + next_batch * value_batch_stride + next_kv_head * value_head_stride",
        "ahead_values = next_values - values",
        "if ahead_values == 0:",
        f"    ahead_values = {_VALUES_AHEAD} * value_row_stride",
    ]
    return [
        *lines,
        "first = block * block_rows",
        "end = min(first + block_rows, query_length)",
        *(["sees_all = 0"] if form.tries_again else []),
    ]
