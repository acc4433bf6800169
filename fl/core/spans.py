"""Models in pieces, each of which can be run, attacked and trained without the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hocket.fl.core.backend import Span
from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from hocket.fl.core.backend import Footprint, LocalTraining
    from hocket.fl.core.parameters import Parameters
    from hocket.hwmodels.machine import HardwareModel


@dataclass(frozen=True)
class Border:
    """A value inside a model that everything behind it knows the model's inputs through.

    Attributes:
        name: Of the value.
        shape: Of one example's.
        before, after: Names of the parameters on either side, running statistics among them. One
            that is read on both sides, such as a tied table, is in both.
    """

    name: str
    shape: tuple[int, ...]
    before: frozenset[str] = field(repr=False)
    after: frozenset[str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}"


@dataclass(frozen=True)
class Exit:
    """Where a piece is measured: by the model's own scores, or early, by an exit's.

    An early exit is affine: the means over parts of an image or over all tokens, and one product
    with a weight. So the cross entropy of its scores is convex in the value at its border, and with
    ``convexity`` strongly so.

    Attributes:
        border: Name of the border; empty for the model's output.
        weight: Of its loss in the piece's.
        convexity: Half of this times the squared length of an example's value at the border joins
            the loss; mu in the paper.

    Raises:
        ConfigError: A number is negative, or the model's output is to be made convex.
    """

    border: str = ""
    weight: float = 1.0
    convexity: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "convexity"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.convexity and not self.border:
            raise ConfigError("convexity is for early exits; the model's output has none")


@dataclass(frozen=True)
class Piece:
    """Some of a model and how it is measured.

    Attributes:
        start: Name of the border it begins behind; empty for the model's input.
        exits: In the order of the model; the last one is where the piece ends.

    Raises:
        ConfigError: There are no exits.
    """

    start: str = ""
    exits: tuple[Exit, ...] = (Exit(),)

    def __post_init__(self) -> None:
        if not self.exits:
            raise ConfigError("a piece has one exit or more")

    @property
    def stop(self) -> str:
        """Name of the border where it ends; empty for the model's output."""
        return self.exits[-1].border

    @property
    def span(self) -> Span:
        """What is in memory while it is attacked and trained."""
        exits = tuple(each.border for each in self.exits if each.border)
        return Span(self.start, self.stop, exits, is_attacked=True)


class PieceTraining(Protocol):
    """A piece that is being trained, and its optimizer."""

    def step(self, inputs: NDArray[Any], targets: NDArray[Any]) -> float:
        """Take a step and return the loss before it.

        Args:
            inputs: What the piece is given, ``[batch, ...]``.
            targets: Classes, ``[batch]``, or how likely each is, ``[batch, classes]``.

        Raises:
            FederationError: The loss is no longer finite.
        """
        ...


class Meter(Protocol):
    """Counts what a model holds in memory, as long as it is entered."""

    @property
    def peak_bytes(self) -> int:
        """The most there was so far, weights included."""
        ...

    def __enter__(self) -> Any:
        """Begin to count."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count no more."""
        ...


class Spans(Protocol):
    """A classifier of one floating-point input, in pieces. One thread at a time uses it."""

    def borders(self) -> tuple[Border, ...]:
        """Return all borders, in order."""
        ...

    def parameters(self) -> Parameters:
        """Return copies of all parameters, those of the model's own and of its early exits."""
        ...

    def load_parameters(self, parameters: Parameters) -> None:
        """Take on parameters like its own.

        Raises:
            UpdateError: They are not; nothing has changed then.
        """
        ...

    def owned(self, span: Span) -> frozenset[str]:
        """Return the names of the parameters that training a span changes, its exits' among them.

        Raises:
            ConfigError: There is no such span, or an exit was not asked for.
        """
        ...

    def features(self, start: str, stop: str, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the values at a border, or scores; the model behaves as in evaluation.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``.
        """
        ...

    def losses(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example, and the scores of the last exit; as in evaluation."""
        ...

    def gradient(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example and its gradient by the input; as in evaluation."""
        ...

    def pull_back(
        self, start: str, stop: str, inputs: NDArray[Any], gradient: NDArray[Any]
    ) -> NDArray[Any]:
        """Return a loss's gradient by the inputs, given that by the values at a border.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``; the model behaves as in evaluation.
            gradient: Of the loss by the values at the stop.
        """
        ...

    def displacement(
        self, start: str, stop: str, inputs: NDArray[Any], origin: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return how far values are from others, squared, and the gradients by the inputs.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``.
            origin: Values at the stop that distances are from.
        """
        ...

    def train_piece(
        self,
        piece: Piece,
        training: LocalTraining,
        seed: int,
        *,
        keeps_exit_gradients: bool = False,
    ) -> PieceTraining:
        """Return a training of a piece, with a new optimizer for what the piece owns.

        Args:
            piece: What is trained.
            training: How.
            seed: Of what is drawn.
            keeps_exit_gradients: Whether gradients of early exits add up from step to step, as they
                do in FedProphet's published code.
        """
        ...

    def meter(
        self,
        piece: Piece,
        batch_size: int,
        limit_bytes: int = 0,
        frozen: Sequence[Span] = (),
    ) -> Meter:
        """Return a count of what attacking and training a piece really holds.

        It is to be entered once, and slows down what runs.

        Args:
            piece: What is attacked and trained.
            batch_size: Examples of a step.
            limit_bytes: Whatever makes more be held raises a ``BudgetError``; 0 for no limit.
            frozen: What runs before the piece. Weights of one of these at a time are held: from
                the operator that reads them first to one that reads others.
        """
        ...

    def footprint(self, machine: HardwareModel, training: LocalTraining, span: Span) -> Footprint:
        """Return what it takes to train a span on a machine."""
        ...
