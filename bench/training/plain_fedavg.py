"""FedAvg in plain torch, as one writes it without a framework: what ours is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.data import Examples, Partitions

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Visit:
    """A device's part in a round.

    Attributes:
        device_id: Whose images.
        seed: Of the order of batches.
    """

    device_id: str
    seed: int


class PlainFederation:
    """A module, and a server's loop over devices' local SGD.

    Args:
        module: Begins with the parameters that the federation begins with.
        partitions: Everyone's images.
        training: Epochs, batches, and SGD with momentum and clipping.
    """

    def __init__(self, module: nn.Module, partitions: Partitions, training: LocalTraining) -> None:
        self._module, self._partitions, self._training = module.train(), partitions, training
        self._state = _copy(module)

    def run_round(self, visits: Sequence[Visit]) -> None:
        """Train on each device from the server's model, and average by examples."""
        total, sums = 0, {name: torch.zeros_like(a, dtype=torch.float64) for name, a in self._all()}
        for visit in visits:
            self._module.load_state_dict(self._state)
            examples = self._partitions.load(visit.device_id)
            self._train(examples, visit.seed)
            total += len(examples)
            for name, array in self._module.state_dict().items():
                sums[name] += len(examples) * array.double()
        self._state = {name: (a / total).to(self._state[name].dtype) for name, a in sums.items()}

    def accuracy(self, examples: Examples) -> float:
        """Return the share of examples that the server's model gets right."""
        self._module.load_state_dict(self._state)
        self._module.eval()
        num_right = 0
        with torch.no_grad():
            for batch in examples.batches(EVALUATION_BATCH):
                pixels, targets = _tensors(batch)
                num_right += int((self._module(pixels).argmax(1) == targets).sum())
        self._module.train()
        return num_right / len(examples)

    def _train(self, examples: Examples, seed: int) -> None:
        training = self._training
        parameters = list(self._module.parameters())
        optimizer = torch.optim.SGD(parameters, training.learning_rate, training.momentum)
        pixels, targets = _tensors(examples)
        generator = np.random.default_rng(seed)
        for _ in range(training.epochs):
            order = torch.from_numpy(generator.permutation(len(examples)))
            for chosen in order.split(training.batch_size):
                optimizer.zero_grad()
                loss = functional.cross_entropy(self._module(pixels[chosen]), targets[chosen])
                loss.backward()
                if training.clip_norm:
                    torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
                optimizer.step()

    def _all(self) -> Any:
        return self._state.items()


def _copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: array.clone() for name, array in module.state_dict().items()}


def _tensors(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    (pixels,) = examples.inputs.values()
    return torch.from_numpy(pixels), torch.from_numpy(examples.targets)
