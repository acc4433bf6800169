"""FedAvg, FedProx and the FedOpt family: one strategy, with other steps of the server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.aggregation import difference, mean_parameters
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import derive_seed, generator_for
from hocket.fl.core.server_optimizer import Adaptive, ServerOptimizer, Sgd
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate, Device, Kind


@dataclass(frozen=True)
class FederatedAveraging:
    """Asks some devices to train and moves the model to the mean of theirs.

    With the default server optimizer this is FedAvg (McMahan et al. 2017, algorithm 1); with
    ``training.proximal_mu`` FedProx (Li et al. 2020); with others FedAvgM and FedOpt. ``fedavg``
    and its like below make each by its name.

    Attributes:
        training: What devices are told.
        fraction_train, fraction_evaluate: Share of all devices that take part in a round.
        min_train_devices: Devices that a round asks for at least, however small the share.
        fraction_needed: Share of a round's tasks that must come back for it to count.
        minimum: Least value of each attribute that a device must have to train.
        server_optimizer: What the server makes of the mean.
        averaged: Arrays that take on the mean as it is, whatever the optimizer: statistics of the
            data, such as running variances, along which there is no descending.

    Raises:
        ConfigError: A share is not between 0 and 1.
    """

    training: LocalTraining = field(default_factory=LocalTraining)
    fraction_train: float = 1.0
    fraction_evaluate: float = 0.0
    min_train_devices: int = 1
    fraction_needed: float = 0.0
    minimum: Mapping[str, float] = field(default_factory=dict)
    server_optimizer: ServerOptimizer = field(default_factory=Sgd)
    averaged: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("fraction_train", "fraction_evaluate", "fraction_needed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.min_train_devices < 1:
            raise ConfigError(f"min_train_devices must be 1 or more, got {self.min_train_devices}")

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the parameters, and what the server's optimizer begins with."""
        return ServerState(parameters, self.server_optimizer.start(self._optimized(parameters)))

    def request(self, job: str, round_number: int, num_devices: int) -> DeviceRequest:
        """Return a request for a share of the devices, the same in every round."""
        del round_number
        wanted = max(self.min_train_devices, _share(self.fraction_train, num_devices))
        return DeviceRequest(job, wanted, self.minimum)

    def configure(
        self,
        state: ServerState,
        round_number: int,
        devices: Sequence[Device],
        seed: int,
        kind: Kind,
    ) -> list[ClientTask]:
        """Return a task for each device that is to train, or for a share that is to evaluate.

        A schedule of the learning rate goes on from round to round, by ``max_steps`` of each.
        """
        del state
        training = self.training
        if training.warmup_steps or training.decay_steps:
            training = replace(training, first_step=(round_number - 1) * training.max_steps)
        chosen = list(devices)
        if kind == "evaluate":
            generator = generator_for(seed, "evaluate", round_number)
            count = min(_share(self.fraction_evaluate, len(devices)), len(devices))
            chosen = [devices[i] for i in sorted(generator.permutation(len(devices))[:count])]
        return [
            ClientTask(
                round=round_number,
                device_id=device.device_id,
                kind=kind,
                seed=derive_seed(seed, kind, round_number, device.device_id),
                config=training.to_config(),
            )
            for device in chosen
        ]

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return all parameters."""
        del task
        return state.parameters

    def num_updates_needed(self, num_tasks: int) -> int:
        """Return the share of the tasks that must come back, at least one."""
        return max(1, math.ceil(self.fraction_needed * num_tasks))

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Move the model along the mean change; others take on their mean."""
        mean = mean_parameters(updates)
        if self.server_optimizer == Sgd():
            return ServerState(mean, state.kept)  # exactly, where a difference would round
        change = difference(self._optimized(mean), state.parameters)
        steps, kept = self.server_optimizer.step(change, dict(state.kept))
        moved = {
            name: (state.parameters[name].astype(np.float64) + step).astype(mean[name].dtype)
            for name, step in steps.items()
        }
        return ServerState(mean | moved, kept)

    def is_finished(self, state: ServerState) -> bool:
        """Return that there is always more to learn."""
        del state
        return False

    def _optimized(self, parameters: Parameters) -> dict[str, NDArray[Any]]:
        return {
            name: array
            for name, array in parameters.items()
            if array.dtype.kind == "f" and name not in self.averaged
        }


def fedavg(**settings: Any) -> FederatedAveraging:
    """Return FedAvg. Settings are attributes of ``FederatedAveraging``."""
    return FederatedAveraging(**settings)


def fedprox(proximal_mu: float, **settings: Any) -> FederatedAveraging:
    """Return FedProx, which draws clients to the server's model this strongly."""
    strategy = FederatedAveraging(**settings)
    return replace(strategy, training=replace(strategy.training, proximal_mu=proximal_mu))


def fedavgm(
    server_learning_rate: float = 1.0, server_momentum: float = 0.9, **settings: Any
) -> FederatedAveraging:
    """Return FedAvg with momentum at the server."""
    return FederatedAveraging(
        server_optimizer=Sgd(server_learning_rate, server_momentum), **settings
    )


def fedadagrad(
    eta: float = 0.1, tau: float = 1e-3, beta_1: float = 0.0, **settings: Any
) -> FederatedAveraging:
    """Return FedAdagrad. ``eta`` is the server's learning rate, as Flower names it."""
    return FederatedAveraging(
        server_optimizer=Adaptive("adagrad", eta, beta_1=beta_1, tau=tau), **settings
    )


def fedadam(
    eta: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3, **settings: Any
) -> FederatedAveraging:
    """Return FedAdam."""
    return FederatedAveraging(
        server_optimizer=Adaptive("adam", eta, beta_1, beta_2, tau), **settings
    )


def fedyogi(
    eta: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3, **settings: Any
) -> FederatedAveraging:
    """Return FedYogi."""
    return FederatedAveraging(
        server_optimizer=Adaptive("yogi", eta, beta_1, beta_2, tau), **settings
    )


STRATEGIES = {
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
}
"""Strategies by name; arguments are settings of a configuration file."""


def _share(fraction: float, count: int) -> int:
    """Return a share of a number, rounded to the nearest, a tie upwards."""
    return math.floor(fraction * count + 0.5)
