"""Attacks through modules that are not trained, of which one at a time is in memory.

What each module is given is kept on the way forward. What it computes for itself is computed again
on the way back, so an attack on the input of a deep model takes the memory of its largest module,
and for that one forward pass more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.backend import Span
from hocket.fl.core.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.backend import Footprint
    from hocket.fl.core.spans import Border, Piece, Spans
    from hocket.fl.fat.partition import CascadeModule

_FLOAT_BYTES = 4


class FrozenModules:
    """The modules before a piece: gradients of the piece's loss by what the first of them is given.

    It can be attacked in the place of the model. While a meter counts, a module is given half as
    many examples at a time whenever more do not fit, and no more than that from then on. If not
    even one fits, all modules together are given half as many, so that less of them is kept.

    Args:
        spans: The model.
        modules: From its input to where pieces begin; none where they begin at the input.
    """

    def __init__(self, spans: Spans, modules: Sequence[CascadeModule]) -> None:
        self._spans, self._modules = spans, tuple(modules)
        self._most: dict[str, int] = {}

    @property
    def spans(self) -> tuple[Span, ...]:
        """The modules, as a meter takes them."""
        return tuple(Span(each.start, each.stop, is_frozen=True) for each in self._modules)

    def features(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return what a piece behind the modules is given."""
        for module in self._modules:
            inputs = self._pass(module, inputs)
        return inputs

    def losses(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example, and the scores of the piece's last exit."""
        features = self.features(inputs)
        losses, scores = self._in_parts(
            f"losses {piece.start}",
            len(features),
            lambda part: self._spans.losses(piece, features[part], targets[part]),
        )
        return losses, scores

    def gradient(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example and its gradient by the input; as in evaluation."""
        losses, slope = self._in_parts(
            f"all {piece.start}",
            len(inputs),
            lambda part: self._there_and_back(piece, inputs[part], targets[part]),
        )
        return losses, slope

    def _there_and_back(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], ...]:
        values = [inputs]
        for module in self._modules:
            values.append(self._pass(module, values[-1]))
        losses, slope = self._last(piece, values.pop(), targets)
        for module in reversed(self._modules):
            slope = self._back(module, values.pop(), slope)
        return losses, slope

    def _last(
        self, piece: Piece, features: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], ...]:
        return self._in_parts(
            f"gradient {piece.start}",
            len(features),
            lambda part: self._spans.gradient(piece, features[part], targets[part]),
        )

    def _pass(self, module: CascadeModule, inputs: NDArray[Any]) -> NDArray[Any]:
        (found,) = self._in_parts(
            f"pass {module.start}",
            len(inputs),
            lambda part: (self._spans.features(module.start, module.stop, inputs[part]),),
        )
        return found

    def _back(
        self, module: CascadeModule, inputs: NDArray[Any], slope: NDArray[Any]
    ) -> NDArray[Any]:
        (found,) = self._in_parts(
            f"back {module.start}",
            len(inputs),
            lambda part: (
                self._spans.pull_back(module.start, module.stop, inputs[part], slope[part]),
            ),
        )
        return found

    def _in_parts(
        self, what: str, count: int, compute: Callable[[slice], tuple[NDArray[Any], ...]]
    ) -> tuple[NDArray[Any], ...]:
        """Return what is computed of all examples, of as many at a time as fit."""
        most, start = self._most.get(what, count), 0
        found = []
        while start < count:
            try:
                found.append(compute(slice(start, start + most)))
            except BudgetError:
                self._most.pop(what, None)
                if most == 1:
                    raise
                self._most[what] = most = most // 2
            else:
                start += most
        if len(found) == 1:
            return found[0]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def peak_at_input(
    borders: Sequence[Border],
    footprint: Callable[[Span, int], Footprint],
    modules: Sequence[CascadeModule],
    piece: Piece,
    batch_size: int,
    budget_bytes: int = 0,
) -> int:
    """Return the most bytes that it takes to train a piece against attacks on the model's input.

    While a frozen module is differentiated the piece's weights and its optimizer are there, what
    each module before is given, and the gradient that comes back. As ``FrozenModules`` does it, a
    module takes as many examples at a time as the budget has room for, and all of them together
    fewer if it has none for one.

    Args:
        borders: Of the model.
        footprint: Returns what it takes to train a span on so many examples at a time.
        modules: The frozen ones, in order.
        piece: What is trained.
        batch_size: Examples of a step.
        budget_bytes: That a device has; 0 for as much as it takes.
    """
    trained = footprint(piece.span, batch_size)
    resident = trained.weight_bytes + trained.optimizer_bytes
    shapes = {border.name: border.shape for border in borders}
    value_bytes = [_FLOAT_BYTES * math.prod(shapes[module.stop]) for module in modules]

    def peak_of(number: int, count: int) -> int:
        module = modules[number]
        span = Span(module.start, module.stop, is_attacked=True, is_frozen=True)
        found = footprint(span, count)
        # What it makes again, and the gradient of that.
        return found.peak_bytes + 2 * count * value_bytes[number]

    limit = budget_bytes or math.inf
    for together in _halves(batch_size):
        peaks = [trained.peak_bytes]
        for number in range(len(modules)):
            kept = resident + together * sum(value_bytes[: number + 1])
            found = [kept + peak_of(number, count) for count in _halves(together)]
            peaks.append(next((each for each in found if each <= limit), found[-1]))
        if max(peaks) <= limit:
            break
    return max(peaks)


def _halves(count: int) -> list[int]:
    """Return a number of examples, half of it, and so on, down to one."""
    return [count >> times for times in range(count.bit_length())]
