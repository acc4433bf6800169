"""Operators that change shapes and move elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from hocket.fl.backends.onnx_ops.node import Operator, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.backends.onnx_ops.node import Compute, Site

_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _shape(site: Site) -> Compute:
    start, end = site.get("start", 0), site.get("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _size(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _reshape(site: Site) -> Compute:
    wanted = site.integers(1, "shape") or []
    keeps_zero = site.get("allowzero", 0)
    copied = [] if keeps_zero else [axis for axis, size in enumerate(wanted) if size == 0]

    def compute(x: torch.Tensor, _shape: torch.Tensor | None = None) -> torch.Tensor:
        sizes = list(wanted)
        for axis in copied:
            sizes[axis] = x.shape[axis]
        return x.reshape(sizes)

    return compute


def _flatten(site: Site) -> Compute:
    axis = site.get("axis", 1)

    def compute(x: torch.Tensor) -> torch.Tensor:
        first = axis + x.dim() if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))

    return compute


def _squeeze(site: Site) -> Compute:
    axes = site.integers(1, "axes")
    if axes is None:
        return lambda x, _=None: x.squeeze()
    return lambda x, _=None: x.squeeze(tuple(axes))


def _unsqueeze(site: Site) -> Compute:
    axes = site.integers(1, "axes") or []

    def compute(x: torch.Tensor, _axes: torch.Tensor | None = None) -> torch.Tensor:
        rank = x.dim() + len(axes)
        for axis in sorted(each % rank for each in axes):
            x = x.unsqueeze(axis)
        return x

    return compute


def _transpose(site: Site) -> Compute:
    order = site.get("perm")
    if order is None:
        return lambda x: x.permute(*reversed(range(x.dim())))
    return lambda x: x.permute(order)


def _concat(site: Site) -> Compute:
    axis = site.get("axis", 0)
    return lambda *tensors: torch.cat(tensors, axis)


def _split(site: Site) -> Compute:
    axis, sizes = site.get("axis", 0), site.integers(1, "split")
    count = site.get("num_outputs", len(site.node.outputs))

    def compute(x: torch.Tensor, _sizes: torch.Tensor | None = None) -> Sequence[torch.Tensor]:
        parts = sizes
        if parts is None:
            # The last one is smaller where it does not go round.
            each = -(-x.shape[axis] // count)
            parts = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
        return torch.split(x, parts, axis)

    return compute


def _slice(site: Site) -> Compute:
    starts, ends = site.integers(1, "starts") or [], site.integers(2, "ends") or []
    axes = site.integers(3, "axes") or list(range(len(starts)))
    steps = site.integers(4) or [1] * len(starts)

    def compute(x: torch.Tensor, *_ranges: torch.Tensor) -> torch.Tensor:
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = x.shape[axis]
            first, last, stride = slice(start, end, step).indices(size)
            if step > 0:
                index = [slice(None)] * (axis % x.dim())
                x = x[(*index, slice(first, max(first, last), stride))]
            else:
                # Torch has no backward slices.
                places = torch.arange(first, last, stride, device=x.device)
                x = x.index_select(axis % x.dim(), places)
        return x

    return compute


def _expand(site: Site) -> Compute:
    wanted = site.integers(1) or []

    def compute(x: torch.Tensor, _shape: torch.Tensor | None = None) -> torch.Tensor:
        # Either side may have the 1.
        return x.expand(torch.broadcast_shapes(x.shape, wanted))  # type: ignore[no-untyped-call]

    return compute


def _tile(site: Site) -> Compute:
    repeats = site.integers(1) or []
    return lambda x, _=None: x.repeat(repeats)


def _pad(site: Site) -> Compute:
    pads = site.integers(1, "pads") or []
    axes = site.integers(3) or list(range(len(pads) // 2))
    mode = site.get("mode", "constant")
    value = site.value(2).item() if site.has_input(2) else site.get("value", 0.0)
    half = len(pads) // 2
    if mode not in ("constant", *_PAD_MODES):
        site.refuse(f"mode {mode!r} is none of constant, reflect, edge, wrap")

    def compute(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        sizes = [0] * (2 * x.dim())
        for number, axis in enumerate(axes):
            # Torch counts axes from the last one.
            place = 2 * (x.dim() - 1 - axis % x.dim())
            sizes[place], sizes[place + 1] = pads[number], pads[half + number]
        if mode == "constant":
            return functional.pad(x, sizes, value=value)
        while len(sizes) > 2 and sizes[-2:] == [0, 0]:
            sizes = sizes[:-2]
        # Torch pads at most the last three of five axes, others are put in front of them.
        missing = len(sizes) // 2 + 1 - x.dim()
        for _count in range(missing):
            x = x.unsqueeze(0)
        x = functional.pad(x, sizes, mode=_PAD_MODES[mode])
        for _count in range(missing):
            x = x.squeeze(0)
        return x

    return compute


def _depth_to_space(site: Site) -> Compute:
    block, is_crd = site.get("blocksize"), site.get("mode", "DCR") == "CRD"

    def compute(x: torch.Tensor) -> torch.Tensor:
        batch, depth, height, width = x.shape
        inner = depth // block**2
        if is_crd:
            x = x.reshape(batch, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        else:
            x = x.reshape(batch, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(batch, inner, height * block, width * block)

    return compute


def _space_to_depth(site: Site) -> Compute:
    block = site.get("blocksize")

    def compute(x: torch.Tensor) -> torch.Tensor:
        batch, depth, height, width = x.shape
        x = x.reshape(batch, depth, height // block, block, width // block, block)
        x = x.permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, depth * block**2, height // block, width // block)

    return compute


def _trilu(site: Site) -> Compute:
    keeps_upper = site.get("upper", 1)
    diagonal = int(site.value(1).item()) if site.has_input(1) else 0
    function = torch.triu if keeps_upper else torch.tril
    return lambda x, _=None: function(x, diagonal)


MOVEMENT: dict[str, Operator] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": plain(lambda x: x),
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": plain(_size),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
"""Operators by their names in ONNX."""
