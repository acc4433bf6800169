"""From checked parameters and the CPU found to the text of a Numba module.

The text is written where it runs, from numbers and from the words of fixed tables, never from a
string that came with an artifact. It is a driver: loops, addresses, and calls of tiles.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite
import numba

from hocket.runtime.kernels import lanes, masks, matrix, transposes, vector, work
from hocket.runtime.kernels.lanes import FLOAT_BYTES
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.plan import (
    SIZE_NAMES,
    STATISTICS,
    KernelForm,
    kernel_form,
    scratch_layout,
)

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters

ENTRY_NAME = "attend"
"""Name of the kernel in its module."""

_INTRINSICS = (lanes, masks, matrix, transposes, vector, work)

_ARGUMENTS = ("query", "key", "value", "mask", "output", "scratch", "counter", "sizes")


@dataclass(frozen=True)
class KernelSource:
    """Text of a Numba module.

    Attributes:
        text: The module.
        digest: Hexadecimal SHA-256 of all that the compiled code depends on: the text, the
            source of the tiles it calls, the versions of the compilers, and the CPU.
        entry_names: Functions in it that are called from outside.
    """

    text: str
    digest: str
    entry_names: tuple[str, ...]


def generate_source(parameters: AttentionParameters, cpu: CpuFeatures) -> KernelSource:
    """Write the kernel that computes ``parameters`` on ``cpu``.

    Parameters that differ only in lengths, heads, batch, layouts, scale or tiling give the same
    source: those are handed over at the call, see ``plan.SIZE_NAMES``.
    """
    text = _module_text(kernel_form(parameters, cpu))
    digest = hashlib.sha256()
    for part in (_toolchain_digest(), cpu.cache_key, text):
        digest.update(hashlib.sha256(part.encode()).digest())
    return KernelSource(text, digest.hexdigest(), (ENTRY_NAME,))


@functools.cache
def _toolchain_digest() -> str:
    """Return a digest of what turns text into code and is not in the text."""
    digest = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for module in _INTRINSICS:
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return digest.hexdigest()


def _module_text(form: KernelForm) -> str:
    masked = "no mask" if form.mask == "none" else f"{form.mask} mask by {form.mask_axes}"
    lines = [
        '"""Attention kernel, written by hocket.runtime.kernels.generator; edits are not kept.',
        "",
        f"head_dim {form.head_dim}, value_dim {form.value_dim}, causal {form.is_causal}, {masked},",
        f"masked rows {form.masked_rows}, {form.lanes} lanes, tiles of {form.tile_rows} rows.",
        '"""',
        "",
        "from math import inf",
        "",
        "from numba import float64, intp, njit, void",
        "",
        "from hocket.runtime.kernels import masks, matrix, transposes, vector, work",
        "",
        *_tile_lines(form),
        "",
        "",
        f"@njit(void({', '.join(['intp'] * len(_ARGUMENTS))}, float64, float64),",
        '      nogil=True, cache=True, error_model="numpy")',
        f"def {ENTRY_NAME}({', '.join(_ARGUMENTS)}, scale, masked_value):",
        *_indent(1, _setup_lines(form)),
        *_indent(1, ["item = take_item(counter)", "while item < num_items:"]),
        *_indent(2, _item_lines(form)),
        *_indent(2, ["while first < end:"]),
        *_indent(3, _piece_lines(form)),
        *_indent(2, ["item = take_item(counter)"]),
        "",
    ]
    return "\n".join(lines)


def _tile_lines(form: KernelForm) -> list[str]:
    """Return the lines that name the tiles the driver calls."""
    lanes_ = f"lanes={form.lanes}"
    key_mask = form.mask if form.mask_axes == "key" else "none"
    lines = [
        "load_size = work.load_size()",
        "take_item = work.take_item()",
        f"fill = transposes.fill_tile({lanes_})",
        f"pack = transposes.pack_tile({lanes_}, depth={form.head_dim})",
        "unpack = transposes.unpack_tile(",
        f'    {lanes_}, depth={form.value_dim}, masked_rows="{form.masked_rows}")',
        f"raise_largest = vector.largest_tile({lanes_})",
        f"rescale = vector.rescale_tile({lanes_})",
        f"exponentiate = vector.exponential_tile({lanes_})",
    ]
    if form.mask_axes == "both":
        lines.append(f'apply_mask = masks.mask_tile({lanes_}, kind="{form.mask}")')
    if form.mask_axes == "query":
        lines.append(f'apply_mask = masks.query_mask_tile({lanes_}, kind="{form.mask}")')
    if form.is_causal:
        lines.append(f"hide_later = masks.causal_tile({lanes_})")
    for vectors in _VECTORS:
        lines += [
            f"score_{vectors} = matrix.score_tile(",
            f"    {lanes_}, rows={form.tile_rows}, vectors={vectors}, depth={form.head_dim},",
            f'    key_mask="{key_mask}")',
            f"weigh_{vectors} = matrix.weigh_tile(",
            f"    {lanes_}, columns={form.tile_rows}, vectors={vectors}, depth={form.value_dim})",
        ]
    return lines


def _setup_lines(form: KernelForm) -> list[str]:
    """Return the lines that read the sizes and divide the scratch memory."""
    layout = scratch_layout(form)
    lines = [f"{name} = load_size(sizes, {place})" for place, name in enumerate(SIZE_NAMES)]
    lines += [
        f"packed = scratch + {layout.queries}",
        f"weighted = scratch + {layout.output}",
        f"block_scores = scratch + {layout.scores}",
    ]
    lines += [
        f"{name} = scratch + {layout.statistics + place * layout.row_bytes}"
        for place, name in enumerate(STATISTICS)
    ]
    return [*lines, f"fill(ones, {MAX_VECTORS}, 1.0)"]


def _item_lines(form: KernelForm) -> list[str]:
    """Return the lines that find the operands of a work item: a block of one head's queries."""
    block = "item % num_blocks"
    if form.is_causal:
        # Later blocks see more keys. Handed out first, they do not hold up the end of the run.
        block = f"num_blocks - 1 - {block}"
    lines = [
        f"block = {block}",
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
    return [
        *lines,
        "first = block * block_rows",
        "end = min(first + block_rows, query_length)",
    ]


def _piece_lines(form: KernelForm) -> list[str]:
    """Return the lines that compute one piece: as many queries as fit the widest tile."""
    lanes_, vector_bytes = form.lanes, form.lanes * FLOAT_BYTES
    keys_end = "min(kv_length, first + last + 1)" if form.is_causal else "kv_length"
    return [
        f"vectors = (end - first + {lanes_ - 1}) // {lanes_}",
        "# Four are taken as two and two: a tile of one vector would starve.",
        f"vectors = 2 if vectors == 4 else min(vectors, {MAX_VECTORS})",
        f"stride = vectors * {vector_bytes}",
        f"last = min(vectors * {lanes_}, end - first) - 1",
        "for column in range(vectors):",
        f"    row = first + column * {lanes_}",
        f"    pack(queries + row * query_row_stride, query_row_stride, last - column * {lanes_},",
        f"         scale, packed + column * {vector_bytes}, stride)",
        f"fill(weighted, vectors * {form.value_dim}, 0.0)",
        f"fill(largest, {MAX_VECTORS}, -inf)",
        f"fill(previous, {MAX_VECTORS}, -inf)",
        f"fill(sums, {MAX_VECTORS}, 0.0)",
        f"keys_end = {keys_end}",
        "for chunk in range(0, keys_end, chunk_rows):",
        "    chunk_end = min(chunk + chunk_rows, keys_end)",
        "    for strip in range(chunk, chunk_end, strip_rows):",
        "        rows = min(strip_rows, chunk_end - strip)",
        "        scores = block_scores + (strip - chunk) * stride",
        *_indent(2, _score_lines(form)),
        "    for column in range(vectors):",
        f"        at = column * {vector_bytes}",
        "        rescale(largest + at, previous + at, shift + at, factors + at, sums + at)",
        "    correction = factors",
        "    for strip in range(chunk, chunk_end, strip_rows):",
        "        rows = min(strip_rows, chunk_end - strip)",
        "        scores = block_scores + (strip - chunk) * stride",
        *_indent(2, _weight_lines(form)),
        "        correction = ones",
        "for column in range(vectors):",
        f"    at = column * {vector_bytes}",
        f"    row = first + column * {lanes_}",
        "    unpack(weighted + at, stride, sums + at, outputs + row * output_row_stride,",
        f"           output_row_stride, last - column * {lanes_})",
        f"first += vectors * {lanes_}",
    ]


def _score_lines(form: KernelForm) -> list[str]:
    """Return the lines that compute, mask and scan the scores of one strip of keys."""
    lanes_, vector_bytes = form.lanes, form.lanes * FLOAT_BYTES
    lines = ["strip_keys = keys + strip * key_row_stride"]
    call = ["score_{}(packed, strip_keys, key_row_stride, rows, scores)"]
    if form.mask_axes == "key":
        lines.append("hiding = entries + strip * mask_column_stride")
        call = [
            "score_{}(packed, strip_keys, key_row_stride, rows, scores,",
            "        hiding, mask_column_stride, masked_value)",
        ]
    lines += _for_each_width(call)
    lines += [
        "for column in range(vectors):",
        f"    at = scores + column * {vector_bytes}",
        f"    row = first + column * {lanes_}",
    ]
    if form.mask_axes in ("query", "both"):
        lines += [
            "    hiding = entries + row * mask_row_stride + strip * mask_column_stride",
            f"    apply_mask(hiding, mask_row_stride, last - column * {lanes_}, at, stride, rows,",
            "               masked_value)",
        ]
    if form.is_causal:
        lines += [
            "    # Keys up to the column's first query are seen by all of it.",
            "    seen = max(row + 1 - strip, 0)",
            "    hide_later(at + seen * stride, stride, rows - seen, strip + seen - row)",
        ]
    lines.append(f"    raise_largest(at, stride, rows, largest + column * {vector_bytes})")
    return lines


def _weight_lines(form: KernelForm) -> list[str]:
    """Return the lines that turn scores to weights and sum weighted values, strip by strip."""
    vector_bytes = form.lanes * FLOAT_BYTES
    return [
        "for column in range(vectors):",
        f"    at = column * {vector_bytes}",
        "    exponentiate(scores + at, stride, rows, shift + at, sums + at)",
        "strip_values = values + strip * value_row_stride",
        *_for_each_width(
            ["weigh_{}(scores, strip_values, value_row_stride, rows, weighted, correction)"]
        ),
    ]


def _for_each_width(call: list[str]) -> list[str]:
    """Return the lines that call the tile for as many vectors as the piece has."""
    lines = []
    for place, vectors in enumerate(_VECTORS):
        lines.append(f"{'elif' if place else 'if'} vectors == {vectors}:")
        lines += _indent(1, [line.format(vectors) for line in call])
    return lines


_VECTORS = tuple(range(MAX_VECTORS, 0, -1))


def _indent(levels: int, lines: list[str]) -> list[str]:
    return [" " * 4 * levels + line for line in lines]
