"""Torch's optimizers, a step of one, and what they gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hocket.fl.core.errors import UpdateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.parameters import Parameters


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
    settings |= {"betas": (training.beta_1, training.beta_2), "eps": training.epsilon}
    if training.optimizer == "adam":
        return torch.optim.Adam(leaves, **settings)
    return torch.optim.AdamW(leaves, **settings)


def optimizer_arrays(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return what an optimizer has gathered, as arrays ``KIND/NAME`` for each tensor's name."""
    found = {}
    for index, state in optimizer.state_dict()["state"].items():
        for kind, value in state.items():
            if isinstance(value, torch.Tensor):
                found[f"{kind}/{names[index]}"] = value.detach().numpy().copy()
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Sequence[str], arrays: Parameters
) -> None:
    """Go on with what an optimizer of the same kind has gathered for the same tensors.

    Raises:
        UpdateError: It is of other tensors.
    """
    states: dict[int, dict[str, torch.Tensor]] = {}
    for label, array in arrays.items():
        kind, _, name = label.partition("/")
        if name not in names:
            raise UpdateError(f"optimizer state: no tensor {name!r} is trained")
        states.setdefault(names.index(name), {})[kind] = torch.from_numpy(array.copy())
    for index, leaf in enumerate(optimizer.param_groups[0]["params"]):
        for kind, tensor in states.get(index, {}).items():
            if tensor.ndim and tensor.shape != leaf.shape:
                raise UpdateError(
                    f"optimizer state: {kind} of {names[index]!r}: want {list(leaf.shape)}, got "
                    f"{list(tensor.shape)}"
                )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def finish_step(
    optimizer: torch.optim.Optimizer,
    leaves: Sequence[torch.Tensor],
    start: Sequence[torch.Tensor],
    training: LocalTraining,
    step: int,
) -> None:
    """Take a step by the gradients that the leaves have.

    Args:
        optimizer: Of the leaves.
        leaves: What is trained.
        start: Where they started, if they are drawn there.
        training: How strongly they are, how large gradients may be, and how far a step goes.
        step: Which it is, from 0.
    """
    with torch.no_grad():
        for leaf, origin in zip(leaves, start, strict=False):
            drawn = (leaf - origin) * training.proximal_mu
            leaf.grad = drawn if leaf.grad is None else leaf.grad.add_(drawn)
    if training.clip_norm:
        torch.nn.utils.clip_grad_norm_(leaves, training.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate_at(step)
    optimizer.step()
