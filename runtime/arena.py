"""Memory for the tensors between steps: one block, each place reused after its last use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.units import align_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.runtime.signature import Signature, TensorSpec
    from hocket.runtime.steps import Step

ALIGNMENT = 64
"""Bytes; a cache line, and the widest vector there is."""


@dataclass(frozen=True)
class ArenaPlan:
    """Where each tensor between steps lies.

    Attributes:
        offsets: First byte of each tensor, by name.
        size_bytes: Of the whole block.
    """

    offsets: Mapping[str, int]
    size_bytes: int


def plan_arena(
    steps: Sequence[Step], signature: Signature, tensors: Mapping[str, TensorSpec]
) -> ArenaPlan:
    """Place every tensor between steps; inputs and outputs of the module belong to the caller.

    Largest first, each at the lowest place where no tensor alive at the same time lies.
    """
    outside = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    live: dict[str, tuple[int, int]] = {}
    for index, step in enumerate(steps):
        for name in step.outputs:
            live[name] = (index, index)
        for name in step.inputs:
            if name in live:
                live[name] = (live[name][0], index)
    names = sorted(
        (name for name in live if name not in outside),
        key=lambda name: (-tensors[name].nbytes, name),
    )
    placed: list[tuple[int, int, str]] = []  # (first byte, one past the last, name)
    offsets: dict[str, int] = {}
    for name in names:
        size = align_up(max(tensors[name].nbytes, 1), ALIGNMENT)
        offset = 0
        for low, high, other in sorted(placed):
            together = live[other][0] <= live[name][1] and live[name][0] <= live[other][1]
            if together and low < offset + size and offset < high:
                offset = high
        offsets[name] = offset
        placed.append((offset, offset + size, name))
    return ArenaPlan(offsets, max((high for _, high, _ in placed), default=0))


def allocate(plan: ArenaPlan, tensors: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return an array for each planned tensor, all in one newly allocated block."""
    block = aligned_bytes(plan.size_bytes)
    arrays = {}
    for name, offset in plan.offsets.items():
        spec = tensors[name]
        part = block[offset : offset + spec.nbytes]
        arrays[name] = part.view(spec.dtype.to_numpy()).reshape(spec.shape)
    return arrays


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Return a new uint8 array that starts at a multiple of ``ALIGNMENT``."""
    try:
        raw = np.empty(size + ALIGNMENT, dtype=np.uint8)
    except MemoryError as error:
        raise MemoryError(
            f"a run needs {size:,} bytes for tensors between its steps, which cannot be had here"
        ) from error
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
