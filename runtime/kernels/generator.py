"""From checked parameters and the CPU found to the text of a Numba module.

The text is written where it runs, from numbers and from the words of fixed tables, never from a
string that came with an artifact. It is a driver: loops, addresses, and calls of tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.runtime.kernels.plan import kernel_form
from hocket.runtime.kernels.schedule import kernel_lines
from hocket.runtime.kernels.source import make_source

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.source import KernelSource

ENTRY_NAME = "attend"
"""Name of the kernel in its module."""


def generate_source(parameters: AttentionParameters, cpu: CpuFeatures) -> KernelSource:
    """Write the kernel that computes ``parameters`` on ``cpu``.

    Parameters that differ only in lengths, heads, batch, layouts, scale or tiling give the same
    source: those are handed over at the call, see ``plan.ARGUMENT_NAMES``.
    """
    form = kernel_form(parameters, cpu)
    tiles, body = kernel_lines(parameters, form)
    return make_source(form.title_lines(), tiles, ENTRY_NAME, body, cpu)
