"""Which kernel computes an attention: the one place where that is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.runtime.kernels.decode import decode_lines
from hocket.runtime.kernels.decode_plan import decode_layout, decode_sizes, decodes
from hocket.runtime.kernels.plan import plan_sizes, scratch_layout
from hocket.runtime.kernels.row_blocks import row_block_lines

if TYPE_CHECKING:
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.plan import KernelForm


@dataclass(frozen=True)
class KernelPlan:
    """The numbers of a kernel that its text leaves open, and its memory.

    Attributes:
        sizes: What it is called with, by ``plan.SIZE_NAMES``.
        worker_bytes: Scratch of one worker.
        shared_bytes: Scratch that workers share, besides the counter of work items.
        num_counters: int64 numbers that this begins with, which must be 0 before a run.
    """

    sizes: dict[str, int]
    worker_bytes: int
    shared_bytes: int = 0
    num_counters: int = 0


def kernel_lines(parameters: AttentionParameters, form: KernelForm) -> tuple[list[str], list[str]]:
    """Return the lines that name the tiles of a kernel, and those of its function."""
    return decode_lines(form) if decodes(parameters, form) else row_block_lines(form)


def plan_kernel(parameters: AttentionParameters, form: KernelForm) -> KernelPlan:
    """Return the numbers of the kernel that ``kernel_lines`` writes."""
    if decodes(parameters, form):
        sizes, layout = decode_sizes(parameters, form), decode_layout(parameters, form)
        num_heads = parameters.batch * parameters.kv_heads
        return KernelPlan(sizes, layout.worker_bytes, layout.shared_bytes, num_heads)
    sizes = plan_sizes(parameters, form)
    return KernelPlan(sizes, scratch_layout(form, sizes["chunk_rows"]).total_bytes)
