"""What a client trains and evaluates with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import Setting
    from hocket.hwmodels.machine import HardwareModel

TRAIN, EVALUATE, INPUT_GRADIENT, FOOTPRINT = "train", "evaluate", "input_gradient", "footprint"
SPANS = "spans"
"""What backends may be able to do, as their ``capabilities`` name it."""

OPTIMIZERS = ("sgd", "adam", "adamw")
FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)


_AT_LEAST_0 = (
    "max_steps",
    "momentum",
    "weight_decay",
    "proximal_mu",
    "clip_norm",
    "epsilon",
    "warmup_steps",
    "decay_steps",
    "final_share",
    "first_step",
)


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains.

    Attributes:
        epochs: Times it goes through its examples.
        max_steps: Steps at most; 0 for as many as the epochs have.
        batch_size: Examples a step; the last step of an epoch may have fewer.
        optimizer: One of ``OPTIMIZERS``, new in every round unless it is kept.
        learning_rate, momentum, weight_decay: The optimizer's; momentum is sgd's alone.
        proximal_mu: How strongly parameters are drawn to where they started: half of this times
            the squared distance joins the loss (FedProx, Li et al. 2020, equation 2).
        clip_norm: Largest norm of all gradients together; 0 for any.
        beta_1, beta_2, epsilon: Of adam and adamw.
        warmup_steps: Steps in which the learning rate grows, evenly, to what it is.
        decay_steps: The step at which it has fallen, along half a cosine, to its final share; 0 for
            a rate that stays. The warm-up counts.
        final_share: Of the learning rate.
        first_step: Steps of the schedule that are over before the first one here: a server counts
            them over rounds.
        keep_optimizer: Whether what the optimizer has gathered is asked for, to go on with.
        precision: One of ``PRECISIONS``: what products are computed in. Weights, their gradients
            and the optimizer have the weights' type in any case.

    Raises:
        ConfigError: A number is out of range, or the optimizer is unknown.
    """

    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    clip_norm: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    warmup_steps: int = 0
    decay_steps: int = 0
    final_share: float = 0.0
    first_step: int = 0
    keep_optimizer: bool = False
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in _AT_LEAST_0:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"momentum is for sgd; {self.optimizer} has its own")
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if self.final_share > 1:
            raise ConfigError(f"final_share must be at most 1, got {self.final_share}")
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"decay_steps must be above warmup_steps {self.warmup_steps}, got "
                f"{self.decay_steps}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0, of those that are taken here."""
        at = self.first_step + step
        if at < self.warmup_steps:
            return self.learning_rate * (at + 1) / self.warmup_steps
        if not self.decay_steps:
            return self.learning_rate
        share = min(1.0, (at - self.warmup_steps) / (self.decay_steps - self.warmup_steps))
        falling = (1 + math.cos(math.pi * share)) / 2
        return self.learning_rate * (self.final_share + (1 - self.final_share) * falling)

    def to_config(self) -> dict[str, Setting]:
        """Return it as settings of a task."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Setting]) -> LocalTraining:
        """Build it from settings of a task; those that are not its own are passed over.

        Raises:
            ConfigError: A setting is of the wrong type or out of range.
        """
        found: dict[str, Any] = {}
        for each in fields(cls):
            if each.name not in config:
                continue
            value, kind = config[each.name], type(each.default)
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(f"{each.name} must be {kind.__name__}, got {value!r}")
            found[each.name] = value
        return cls(**found)


@dataclass(frozen=True)
class Result:
    """What training or evaluation came to.

    Attributes:
        num_examples: Examples looked at, each counted once however many epochs there were.
        metrics: Means over them: ``loss``, and ``accuracy`` where targets are classes.
        num_steps: Steps of the optimizer.
        optimizer_state: What the optimizer has gathered, if it was asked for.
    """

    num_examples: int
    metrics: Mapping[str, float]
    num_steps: int = 0
    optimizer_state: Parameters = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Footprint:
    """What it takes to train on a machine.

    Attributes:
        weight_bytes, gradient_bytes, optimizer_bytes: Kept throughout.
        activation_bytes: Kept from the forward to the backward pass of a batch.
        peak_bytes: The most at any time, all of these and what steps need for themselves.
        flops: Of a step: forward, backward and optimizer.
        step_seconds: Of a step on the machine.
        attention_seconds: Of these, the attentions', forward and backward.
    """

    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    peak_bytes: int
    flops: int
    step_seconds: float
    attention_seconds: float = 0.0


@dataclass(frozen=True)
class Span:
    """Some of a model, from one border to another; see ``Border``.

    Attributes:
        start: Name of the border it begins behind; empty for the model's input.
        stop: Name of the border that is its result; empty for the model's output.
        exits: Borders whose early exits are trained with it.
        is_attacked: Whether what it is given is differentiated, too, as an attack does.
        is_frozen: Whether its weights are not: an attack goes through it to what comes before.
    """

    start: str = ""
    stop: str = ""
    exits: tuple[str, ...] = ()
    is_attacked: bool = False
    is_frozen: bool = False

    def __str__(self) -> str:
        return f"{self.start or 'input'} to {self.stop or 'output'}"


WHOLE = Span()


class Backend(Protocol):
    """A model that a client can train. One thread at a time uses it."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, of ``TRAIN``, ``EVALUATE`` and the others above."""
        ...

    def parameters(self) -> Parameters:
        """Return copies of all parameters."""
        ...

    def load_parameters(self, parameters: Parameters) -> None:
        """Take on parameters, whose names, element types and shapes are those of its own.

        Raises:
            UpdateError: They are not; nothing has changed then.
        """
        ...

    def train(
        self,
        training: LocalTraining,
        examples: Examples,
        seed: int,
        optimizer_state: Parameters | None = None,
    ) -> Result:
        """Train from the parameters it has, with a new optimizer or one that goes on.

        The same parameters, examples, seed and state give the same bits. Metrics are means over the
        last epoch, each batch measured before its step.

        Args:
            training: How.
            examples: On what.
            seed: Of the examples' order, and of all else that is random.
            optimizer_state: Of an earlier training of this optimizer; None for a new one.
        """
        ...

    def evaluate(self, examples: Examples, batch_size: int = 256) -> Result:
        """Measure the model it has, which stays as it is."""
        ...

    def input_gradient(self, examples: Examples, input_name: str) -> NDArray[Any]:
        """Return the gradient of the mean loss by an input, in that input's shape."""
        ...

    def footprint(
        self, machine: HardwareModel, training: LocalTraining, span: Span = WHOLE
    ) -> Footprint:
        """Return what it takes to train a span of the model on a machine."""
        ...


class BackendFactory(Protocol):
    """Makes a backend where it is used; picklable, so that worker processes can have one."""

    def __call__(self) -> Backend:
        """Return a new backend with the parameters that a federation begins with."""
        ...
