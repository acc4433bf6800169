"""From checked parameters and the CPU found to the text of a Numba module.

The text is written where it runs, from numbers and from the words of fixed tables, never from a
string that came with an artifact. It is a driver: loops, addresses, and calls of tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.runtime.kernels.plan import kernel_form
from hocket.runtime.kernels.row_blocks import row_block_lines
from hocket.runtime.kernels.source import make_source

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.plan import KernelForm
    from hocket.runtime.kernels.source import KernelSource

ENTRY_NAME = "attend"
"""Name of the kernel in its module."""


def generate_source(parameters: AttentionParameters, cpu: CpuFeatures) -> KernelSource:
    """Write the kernel that computes ``parameters`` on ``cpu``.

    Parameters that differ only in lengths, heads, batch, layouts, scale or tiling give the same
    source: those are handed over at the call, see ``plan.ARGUMENT_NAMES``.
    """
    form = kernel_form(parameters, cpu)
    tiles, body = row_block_lines(form)
    return make_source(_title(form), tiles, ENTRY_NAME, body, cpu)


def _title(form: KernelForm) -> list[str]:
    masked = "no mask" if form.mask == "none" else f"{form.mask} mask by {form.mask_axes}"
    flags = [
        name
        for name in (
            "has_end",
            "has_start",
            "has_softcap",
            "has_kv_lengths",
            "counts_from_end",
            "has_slopes",
            "saves_log_sum_exp",
        )
        if getattr(form, name)
    ]
    return [
        f"head_dim {form.head_dim}, value_dim {form.value_dim}, {form.storage}, {masked},",
        f"masked rows {form.masked_rows}, {form.lanes} lanes, tiles of {form.tile_rows} rows of",
        f"{form.product} products{''.join(', ' + flag for flag in flags)}.",
    ]
