"""Torch's optimizers, and a step of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.backend import LocalTraining


def make_optimizer(
    training: LocalTraining, leaves: Sequence[torch.Tensor]
) -> torch.optim.Optimizer:
    """Return torch's optimizer of a training, for some tensors."""
    # One pass over each tensor in place of several.
    is_fused = all(leaf.dtype in (torch.float32, torch.float64) for leaf in leaves)
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "weight_decay": training.weight_decay,
        "fused": is_fused,
    }
    if training.optimizer == "sgd":
        return torch.optim.SGD(leaves, momentum=training.momentum, **settings)
    if training.optimizer == "adam":
        return torch.optim.Adam(leaves, **settings)
    return torch.optim.AdamW(leaves, **settings)


def finish_step(
    optimizer: torch.optim.Optimizer,
    leaves: Sequence[torch.Tensor],
    start: Sequence[torch.Tensor],
    training: LocalTraining,
) -> None:
    """Take a step by the gradients that the leaves have.

    Args:
        optimizer: Of the leaves.
        leaves: What is trained.
        start: Where they started, if they are drawn there.
        training: How strongly they are, and how large gradients may be.
    """
    with torch.no_grad():
        for leaf, origin in zip(leaves, start, strict=False):
            drawn = (leaf - origin) * training.proximal_mu
            leaf.grad = drawn if leaf.grad is None else leaf.grad.add_(drawn)
    if training.clip_norm:
        torch.nn.utils.clip_grad_norm_(leaves, training.clip_norm)
    optimizer.step()
