"""Normalisations, and dropout, which is there in training only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.backends.onnx_ops.node import Compute, Operator, Site


def _batch(site: Site) -> Compute:
    epsilon = site.get("epsilon", 1e-5)
    # ONNX's momentum is how much of the old stays, torch's how much of the new comes in.
    momentum, is_training = 1.0 - site.get("momentum", 0.9), site.is_training

    def compute(
        x: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> torch.Tensor:
        """Normalise; in training by the batch, of which mean and variance take on a part.

        That variance is the one of a sample, as torch has it (ONNX: of all there is), since the
        model is to become what torch would have made of it.
        """
        return functional.batch_norm(x, mean, variance, scale, bias, is_training, momentum, epsilon)

    return compute


def _layer(site: Site) -> Compute:
    axis, epsilon = site.get("axis", -1), site.get("epsilon", 1e-5)

    def compute(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        sizes = x.shape[axis:]
        if scale.shape == sizes and (bias is None or bias.shape == sizes):
            return functional.layer_norm(x, sizes, scale, bias, epsilon)
        found = functional.layer_norm(x, sizes, eps=epsilon) * scale
        return found if bias is None else found + bias

    return compute


def _root_mean_square(site: Site) -> Compute:
    axis, epsilon = site.get("axis", -1), site.get("epsilon", 1e-5)

    def compute(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        sizes = x.shape[axis:]
        if scale.shape == sizes:
            return functional.rms_norm(x, sizes, scale, epsilon)
        return functional.rms_norm(x, sizes, eps=epsilon) * scale

    return compute


def _instance(site: Site) -> Compute:
    epsilon = site.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _group(site: Site) -> Compute:
    groups, epsilon = site.get("num_groups"), site.get("epsilon", 1e-5)

    def compute(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if scale.numel() == groups != x.shape[1]:  # a number a group, as in opset 18
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return compute


def _norm(site: Site) -> Compute:
    axis, order = site.get("axis", -1), site.get("p", 2)
    return lambda x: x / torch.linalg.vector_norm(x, order, axis, keepdim=True)


def _dropout(site: Site) -> Compute:
    if site.node.opset < 12:
        ratio = site.get("ratio", 0.5)
    else:
        ratio = float(site.value(1).item()) if site.has_input(1) else 0.5
    generator = site.generator

    def drop(x: torch.Tensor, *_: torch.Tensor) -> Sequence[torch.Tensor]:
        kept = torch.empty_like(x, dtype=torch.float32).uniform_(generator=generator) >= ratio
        return x * kept * (1.0 / (1.0 - ratio)), kept

    def keep(x: torch.Tensor, *_: torch.Tensor) -> Sequence[torch.Tensor]:
        if len(site.node.outputs) == 1:
            return (x,)
        return x, torch.ones_like(x, dtype=torch.bool)

    return drop if site.is_training and ratio > 0 else keep


NORMALIZATION: dict[str, Operator] = {
    "BatchNormalization": _batch,
    "Dropout": _dropout,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "LpNormalization": _norm,
    "RMSNormalization": _root_mean_square,
}
"""Operators by their names in ONNX."""
