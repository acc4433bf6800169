"""What travels between a server and its clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hocket.fl.core.errors import UpdateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.core.parameters import Parameters

Setting = int | float | str | bool
"""What a client is told besides parameters; Flower's ``ConfigRecord`` holds the same."""

Kind = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Device:
    """A device that may take part: a client, or in Flower's words a node.

    Attributes:
        device_id: Unique in the federation.
        attributes: What requests may ask for, such as ``memory_bytes``.
    """

    device_id: str
    attributes: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.device_id


@dataclass(frozen=True)
class ClientTask:
    """What one device is to do in one round, beside the parameters all devices get.

    Attributes:
        round: From 1.
        device_id: Whose it is.
        kind: ``train`` or ``evaluate``.
        seed: For all that is random in it.
        config: Settings for the client; ``LocalTraining`` says which there are.
    """

    round: int
    device_id: str
    kind: Kind
    seed: int
    config: Mapping[str, Setting] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} on {self.device_id} in round {self.round}"


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """What a device sends back.

    Attributes:
        round, device_id, kind: Of the task.
        parameters: After training; empty after an evaluation.
        num_examples: Examples trained on or evaluated.
        metrics: Numbers by name, each a mean over the examples.

    Raises:
        UpdateError: There are no examples.
    """

    round: int
    device_id: str
    kind: Kind
    parameters: Parameters
    num_examples: int
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UpdateError(
                f"device {self.device_id!r}: want 1 or more examples, got {self.num_examples}"
            )


@dataclass(frozen=True)
class ClientFailure:
    """A task that came to nothing.

    Attributes:
        round, device_id, kind: Of the task.
        reason: What went wrong, in a sentence.
        is_late: Whether the device was merely too late.
    """

    round: int
    device_id: str
    kind: Kind
    reason: str
    is_late: bool = False

    def __str__(self) -> str:
        return f"{self.kind} on {self.device_id} in round {self.round} failed: {self.reason}"


Reply = ClientUpdate | ClientFailure


@dataclass(frozen=True)
class RoundReport:
    """What happened in a round.

    Attributes:
        round: From 1.
        num_tasks, num_updates, num_failures: Devices asked to train, heard of, lost.
        has_quorum: Whether enough were heard of; if not, the model is the one before.
        train_metrics: Means over the examples of all updates.
        evaluate_metrics: The same of evaluations on devices, and of the server's own, the latter
            named ``server_...``; empty in rounds without.
        digest: Of the parameters after the round.
        seconds: How long it took.
        failures: What went wrong, one sentence each.
        exchange_seconds: The least time that a reply took beyond the work that it is of, where
            devices say how long they worked: what a model needs there and back. Else 0.
    """

    round: int
    num_tasks: int
    num_updates: int
    num_failures: int
    has_quorum: bool
    train_metrics: Mapping[str, float]
    evaluate_metrics: Mapping[str, float]
    digest: str
    seconds: float
    failures: tuple[str, ...] = ()
    exchange_seconds: float = 0.0
