"""Operators that pick elements by numbers, or put them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Compute, Operator, Site


def _from_the_front(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return indices of which none counts from the end."""
    return torch.where(indices < 0, indices + size, indices)


def _gather(site: Site) -> Compute:
    axis, known = site.get("axis", 0), site.known[1]

    def pick(x: torch.Tensor, _indices: torch.Tensor) -> torch.Tensor:
        return x.select(axis, number)

    def compute(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        place = axis % x.dim()
        indices = _from_the_front(indices.long(), x.shape[place])
        if place == 0 and x.dim() == 2 and x.is_floating_point():
            return functional.embedding(indices, x)
        found = x.index_select(place, indices.reshape(-1))
        return found.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])

    if known is not None and known.dim() == 0:
        number = int(known.item())
        return pick
    return compute


def _gather_elements(site: Site) -> Compute:
    axis = site.get("axis", 0)

    def compute(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return x.gather(axis, _from_the_front(indices.long(), x.shape[axis]))

    return compute


def _flat_places(x: torch.Tensor, indices: torch.Tensor, skipped: int = 0) -> torch.Tensor:
    """Return numbers of slices of ``x``, whose first axes the last one of ``indices`` counts."""
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for number in range(indices.shape[-1]):
        size = x.shape[skipped + number]
        places = places * size + _from_the_front(indices[..., number].long(), size)
    return places


def _gather_nd(site: Site) -> Compute:
    shared = site.get("batch_dims", 0)

    def compute(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        counted = indices.shape[-1]
        inner = x.shape[shared + counted :]
        places = _flat_places(x, indices, shared)
        rows = x.reshape(*x.shape[:shared], -1, *inner).flatten(0, shared)
        if shared:
            num_rows = x.shape[shared : shared + counted].numel()
            outer = torch.arange(x.shape[:shared].numel(), device=x.device)
            places = places + (outer * num_rows).reshape(
                *x.shape[:shared], *[1] * (places.dim() - shared)
            )
        found = rows.index_select(0, places.reshape(-1))
        return found.reshape(*places.shape, *inner)

    return compute


def _scatter_nd(site: Site) -> Compute:
    how = site.get("reduction", "none")
    if how not in ("none", "add"):
        site.refuse(f"reduction {how!r} is none of none, add")

    def compute(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        counted = indices.shape[-1]
        inner = x.shape[counted:]
        places = _flat_places(x, indices).reshape(-1)
        rows = x.reshape(-1, *inner)
        new = updates.reshape(-1, *inner)
        put = rows.index_add(0, places, new) if how == "add" else rows.index_copy(0, places, new)
        return put.reshape(x.shape)

    return compute


def _scatter_elements(site: Site) -> Compute:
    axis, how = site.get("axis", 0), site.get("reduction", "none")
    if how not in ("none", "add"):
        site.refuse(f"reduction {how!r} is none of none, add")

    def compute(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        places = _from_the_front(indices.long(), x.shape[axis])
        if how == "add":
            return x.scatter_add(axis, places, updates)
        return x.scatter(axis, places, updates)

    return compute


def _one_hot(site: Site) -> Compute:
    axis, depth = site.get("axis", -1), int(site.value(1).reshape(()).item())

    def compute(indices: torch.Tensor, _depth: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        places = _from_the_front(indices.long(), depth).unsqueeze(axis)
        shape = [1] * places.dim()
        shape[axis] = depth
        is_there = places == torch.arange(depth, device=places.device).reshape(shape)
        return torch.where(is_there, values[1], values[0])

    return compute


INDEXING: dict[str, Operator] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
"""Operators by their names in ONNX."""
