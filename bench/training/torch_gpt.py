"""The same decoder trained by torch alone: what ours is compared with, and the form for GPUs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from hocket.fl.core.backend import EVALUATE, TRAIN, LocalTraining, Result
from hocket.fl.core.parameters import check_alike
from hocket.fl.photon.gpt import INPUT, Gpt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from hocket.fl.core.backend import Backend
    from hocket.fl.core.data import Examples
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.photon.sizes import GptSize


class TorchGpt:
    """A backend of torch's modules, whose attention is torch's; on a GPU in bfloat16.

    Args:
        size: Of the decoder.
        device: Of torch; by default a GPU if there is one.
    """

    capabilities = frozenset({TRAIN, EVALUATE})

    def __init__(self, size: GptSize, device: str = "") -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._module = Gpt(size).to(self._device)
        self._names = [name for name, _ in self._module.named_parameters()]

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters."""
        return {
            name: each.detach().cpu().numpy().copy()
            for name, each in self._module.named_parameters()
        }

    def load_parameters(self, parameters: Parameters) -> None:
        """Take on parameters of the same names and shapes."""
        check_alike(parameters, self.parameters(), "parameters")
        with torch.no_grad():
            for name, each in self._module.named_parameters():
                each.copy_(torch.from_numpy(np.ascontiguousarray(parameters[name])))

    def train(
        self,
        training: LocalTraining,
        examples: Examples,
        seed: int,
        optimizer_state: Parameters | None = None,
    ) -> Result:
        """Train by AdamW; see ``Backend``."""
        leaves = list(self._module.parameters())
        optimizer = make_adamw(training, leaves)
        if optimizer_state:
            self._restore(optimizer, optimizer_state)
        losses = []
        for step, batch in enumerate(_batches(training, examples, seed)):
            optimizer.zero_grad()
            loss = self._loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            take_step(training, optimizer, leaves, step)
            losses.append(loss.detach())
        # Once a round, since it waits for the GPU.
        mean = torch.stack(losses).mean().item()
        kept = self._gathered(optimizer) if training.keep_optimizer else {}
        return Result(len(examples), {"loss": mean}, len(losses), kept)

    def evaluate(self, examples: Examples, batch_size: int = 64) -> Result:
        """Measure the model it has."""
        total = 0.0
        with torch.no_grad():
            for batch in examples.batches(batch_size):
                total += self._loss(batch).item() * len(batch)
        return Result(len(examples), {"loss": total / len(examples)})

    def _loss(self, batch: Examples) -> torch.Tensor:
        is_gpu = self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_gpu):
            scores = self._module(torch.from_numpy(batch.inputs[INPUT]).to(self._device))
        targets = torch.from_numpy(batch.targets).to(self._device)
        return functional.cross_entropy(scores.flatten(0, 1).float(), targets.flatten())

    def _gathered(self, optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
        return {
            f"{kind}/{self._names[index]}": value.cpu().numpy().copy()
            for index, state in optimizer.state_dict()["state"].items()
            for kind, value in state.items()
        }

    def _restore(self, optimizer: torch.optim.Optimizer, arrays: Parameters) -> None:
        states: dict[int, dict[str, torch.Tensor]] = {}
        for label, array in arrays.items():
            kind, _, name = label.partition("/")
            states.setdefault(self._names.index(name), {})[kind] = torch.from_numpy(array.copy())
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def make_adamw(training: LocalTraining, leaves: list[torch.nn.Parameter]) -> torch.optim.AdamW:
    """Return torch's AdamW as a training has it."""
    betas = (training.beta_1, training.beta_2)
    return torch.optim.AdamW(
        leaves, training.learning_rate, betas, training.epsilon, training.weight_decay
    )


def take_step(
    training: LocalTraining,
    optimizer: torch.optim.Optimizer,
    leaves: list[torch.nn.Parameter],
    step: int,
) -> None:
    """Clip gradients, set the learning rate, and step."""
    torch.nn.utils.clip_grad_norm_(leaves, training.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate_at(step)
    optimizer.step()


def distance_from_averaging(
    backend: Backend,
    module: Gpt,
    training: LocalTraining,
    examples: Examples,
    num_workers: int,
) -> float:
    """Return how far training ends from averaging at every step, by how far that went.

    Args:
        backend: Trains with whole batches, from the module's parameters.
        module: Trains in torch: workers share each batch, and the mean of their gradients is
            stepped with.
        training: AdamW, clipping, and the schedule of learning rates.
        examples: Read once by both, in the same order.
        num_workers: Divides the batch size.
    """
    start = {name: each.detach().clone() for name, each in module.named_parameters()}
    backend.load_parameters({name: each.numpy() for name, each in start.items()})
    backend.train(training, examples, 0)
    leaves = list(module.parameters())
    optimizer = make_adamw(training, leaves)
    for step, batch in enumerate(_batches(training, examples, 0)):
        optimizer.zero_grad()
        for rows in np.split(np.arange(len(batch)), num_workers):
            part = batch.take(rows)
            scores = module(torch.from_numpy(part.inputs[INPUT])).flatten(0, 1)
            loss = functional.cross_entropy(scores, torch.from_numpy(part.targets).flatten())
            (loss / num_workers).backward()  # type: ignore[no-untyped-call]
        take_step(training, optimizer, leaves, step)
    found, off, moved = backend.parameters(), 0.0, 0.0
    for name, each in module.named_parameters():
        reached = each.detach()
        off += float(((torch.from_numpy(found[name]) - reached) ** 2).sum())
        moved += float(((reached - start[name]) ** 2).sum())
    return math.sqrt(off / moved)


def _batches(training: LocalTraining, examples: Examples, seed: int) -> Iterator[Examples]:
    """Yield batches in the order in which every backend reads them."""
    return examples.batches(training.batch_size, np.random.default_rng(seed))
