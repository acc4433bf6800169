"""A model cut into modules, each of which the weakest device has the memory to train.

Tang et al., FedProphet, MLSys 2025. There a module's memory is a formula of its parameters and of
what its weighted layers are given; here it is the backend's own footprint of an attacked step, with
the early exit that is trained with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hocket.fl.core.backend import Span
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.spans import Exit, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hocket.fl.core.backend import Footprint
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.spans import Border


@dataclass(frozen=True)
class CascadeModule:
    """A part of a model that is trained in a stage of its own.

    Attributes:
        number: From 0.
        start, stop: Names of its borders; empty at the model's ends.
        owned: Names of the parameters that are its own and no other module's, running statistics
            among them.
        exit_owned: Names of its early exit's; the last module has none.
    """

    number: int
    start: str
    stop: str
    owned: frozenset[str] = field(repr=False)
    exit_owned: frozenset[str] = field(repr=False, default=frozenset())

    def __str__(self) -> str:
        return f"module {self.number}, {self.start or 'input'} to {self.stop or 'output'}"


@dataclass(frozen=True)
class Cascade:
    """All modules of a model, in order.

    Attributes:
        modules: Each begins where the one before it ends.

    Raises:
        ConfigError: They do not make up a model, or two of them own one parameter.
    """

    modules: tuple[CascadeModule, ...]

    def __post_init__(self) -> None:
        ends = [module.stop for module in self.modules]
        starts = [module.start for module in self.modules]
        if starts != ["", *ends[:-1]] or ends[-1:] != [""]:
            raise ConfigError(f"modules from {starts} to {ends} do not make up a model")
        for one, other in itertools.combinations(self.modules, 2):
            shared = (one.owned | one.exit_owned) & (other.owned | other.exit_owned)
            if shared:
                raise ConfigError(f"{one} and {other} both own {sorted(shared)}")

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def exits(self) -> tuple[str, ...]:
        """Borders that have an early exit: where all modules but the last end."""
        return tuple(module.stop for module in self.modules[:-1])

    def piece(
        self, first: int, last: int, *, prophet: float = 1.0, convexity: float = 0.0
    ) -> Piece:
        """Return what a device trains that has the modules from ``first`` to ``last``.

        Args:
            first, last: Numbers of modules.
            prophet: How much the exit of the last of several modules counts; that of the first has
                the rest (psi). Without a weight an exit is left out.
            convexity: Of early exits (mu).
        """
        exits = [
            Exit(stop, weight, convexity if stop else 0.0)
            for number, weight in _weights(first, last, prophet)
            for stop in [self.modules[number].stop]
        ]
        return Piece(self.modules[first].start, tuple(exits))

    def owned(self, first: int, last: int, *, prophet: float = 1.0) -> frozenset[str]:
        """Return the names of the parameters that training such a piece changes."""
        modules = [module.owned for module in self.modules[first : last + 1]]
        numbers = [number for number, _ in _weights(first, last, prophet)]
        return frozenset().union(*modules, *(self.modules[each].exit_owned for each in numbers))


def _weights(first: int, last: int, prophet: float) -> list[tuple[int, float]]:
    """Return the modules whose exits count, in order, and how much."""
    weights = [(first, 1.0 - prophet), (last, prophet)] if last > first else [(first, 1.0)]
    return [(number, weight) for number, weight in weights if weight > 0 or number == last]


def atoms_of(borders: Sequence[Border], parameters: Parameters) -> list[Border]:
    """Return the borders between atoms, the smallest parts that are modules of their own.

    An atom begins with a product or a convolution and has all that follows it up to the next one:
    normalisation, activation, pooling. What comes before the first, such as the normalisation of
    inputs, belongs to the first atom. There is no cut where a parameter is read on both sides.

    Args:
        borders: Of the model, in order.
        parameters: Of the model: those of two axes or more are what products take.
    """
    found: dict[frozenset[str], Border] = {}
    matrices = {name for name, array in parameters.items() if array.ndim > 1}
    for border in borders:
        before = border.before & matrices
        if before and border.after & matrices and not border.before & border.after:
            found[before] = border
    return list(found.values())


def partition(
    atoms: Sequence[Border],
    owned: Callable[[Span], frozenset[str]],
    footprint: Callable[[Span], Footprint],
    budget_bytes: int,
) -> Cascade:
    """Return the modules that a walk over the atoms makes, each as large as the budget allows.

    Args:
        atoms: Borders between them, in order.
        owned: Returns the parameters in a span, those of the early exits it names among them.
        footprint: Returns what it takes to train a span, with the early exits it names.
        budget_bytes: Most that a module may take at its peak, its early exit's share included.

    Raises:
        ConfigError: An atom takes more by itself; the message names it.
    """
    stops = [*(border.name for border in atoms), ""]
    modules: list[CascadeModule] = []
    start, place = "", 0
    while place < len(stops):
        fitting = place
        while fitting < len(stops) and _peak(footprint, start, stops[fitting]) <= budget_bytes:
            fitting += 1
        if fitting == place:
            raise ConfigError(
                f"the atom from {start or 'the input'} to {stops[place] or 'the output'} takes "
                f"{_peak(footprint, start, stops[place]):,} bytes to train with its exit, the "
                f"budget is {budget_bytes:,}; give more memory or train smaller batches"
            )
        stop = stops[fitting - 1]
        own, with_exit = owned(Span(start, stop)), owned(_with_exit(start, stop))
        modules.append(CascadeModule(len(modules), start, stop, own, with_exit - own))
        start, place = stop, fitting
    return Cascade(tuple(modules))


def whole_model(owned: Callable[[Span], frozenset[str]]) -> Cascade:
    """Return a model as a single module: joint adversarial training (jFAT)."""
    return Cascade((CascadeModule(0, "", "", owned(Span())),))


def _with_exit(start: str, stop: str) -> Span:
    return Span(start, stop, (stop,) if stop else (), is_attacked=True)


def _peak(footprint: Callable[[Span], Footprint], start: str, stop: str) -> int:
    return footprint(_with_exit(start, stop)).peak_bytes
