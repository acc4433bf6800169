"""Narrow copies of a model: which of its units they have, cut out of it and put back in the mean.

One mechanism for three choices of units: the first ones (HeteroFL, Diao et al. 2021), a window that
moves on by one unit a round (FedRolex, Alam et al. 2022), and random ones (FedDrop, Wen et al.
2022). A narrow copy is a model compiled on its own; which places of which of its arrays are which
of the wide one's is said for every array, and never guessed from how names look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hocket.fl.core.aggregation import in_order
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate

    Units = Mapping[str, NDArray[np.intp]]
    """Units of the wide model that a narrow one has, by their group."""

_AXIS = re.compile(r"(?:(\d{1,6})\*)?([A-Za-z_][\w.]*)(?:\*(\d{1,6}))?")

Choice = Literal["first", "rolling", "random"]
CHOICES = ("first", "rolling", "random")


@dataclass(frozen=True)
class Axis:
    """What an axis of an array numbers: ``[repeats, units, places]``, or nothing that is cut.

    Attributes:
        group: Name of the units, such as the channels of a layer; empty for an axis that every
            copy has as it is.
        repeats: How often all units come, as query, key and value of one product do.
        places: That each unit has, as the pixels of a channel do in a flattened map.
    """

    group: str = ""
    repeats: int = 1
    places: int = 1

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Read ``""``, ``"channels"``, ``"channels*4"`` or ``"3*heads*16"``.

        Raises:
            ConfigError: It is none of these.
        """
        if not text:
            return cls()
        found = _AXIS.fullmatch(text)
        if found is None or "0" in (found[1], found[3]):
            raise ConfigError(f"want an axis such as 'channels' or '3*heads*16', got {text!r}")
        return cls(found[2], int(found[1] or 1), int(found[3] or 1))

    def count(self, size: int) -> int:
        """Return how many units an axis of some size numbers.

        Raises:
            ConfigError: No whole number of them.
        """
        each = self.repeats * self.places
        if size % each:
            raise ConfigError(f"an axis of {size} does not number {self.group} {each} times")
        return size // each

    def indices(self, units: NDArray[np.intp], total: int) -> NDArray[np.intp]:
        """Return where some of a total of units are on the axis."""
        starts = np.arange(self.repeats)[:, None, None] * total * self.places
        inner = units[None, :, None] * self.places + np.arange(self.places)[None, None, :]
        return np.asarray((starts + inner).reshape(-1), np.intp)


@dataclass(frozen=True)
class Widths:
    """What the axes of all arrays of a model number.

    Attributes:
        axes: Of every array, by its name.
    """

    axes: Mapping[str, tuple[Axis, ...]]

    @classmethod
    def parse(cls, groups: Mapping[str, Sequence[str]], parameters: Parameters) -> Widths:
        """Return the widths of a model.

        Args:
            groups: Texts for ``Axis.parse``, of each array that is cut.
            parameters: Of the wide model; arrays without texts are never cut.

        Raises:
            ConfigError: A text cannot be read, or is of no array of the model.
        """
        for name, texts in groups.items():
            if name not in parameters:
                raise ConfigError(f"groups: the model has no array {name!r}")
            if len(texts) != parameters[name].ndim:
                raise ConfigError(
                    f"groups: {name!r} has {parameters[name].ndim} axes, got {list(texts)}"
                )
        return cls(
            {
                name: tuple(map(Axis.parse, groups.get(name, [""] * array.ndim)))
                for name, array in parameters.items()
            }
        )

    def counts(self, parameters: Parameters) -> dict[str, int]:
        """Return how many units of each group a model has.

        Raises:
            ConfigError: It has other arrays than those that axes are known of, or two arrays say
                different numbers.
        """
        if parameters.keys() != self.axes.keys():
            odd = sorted(parameters.keys() ^ self.axes.keys())
            raise ConfigError(f"want a model with the arrays {sorted(self.axes)}; {odd} differ")
        found: dict[str, int] = {}
        for name, axes in self.axes.items():
            for axis, size in zip(axes, parameters[name].shape, strict=True):
                if not axis.group:
                    continue
                count = axis.count(size)
                if found.setdefault(axis.group, count) != count:
                    raise ConfigError(
                        f"{name!r} has {count} {axis.group}, another array {found[axis.group]}"
                    )
        return found

    def check_copy(self, parameters: Parameters, wide: Parameters) -> None:
        """Check that a model differs from a wide one in numbers of units alone.

        Raises:
            ConfigError: An array is of another type, or differs in an axis that is never cut.
        """
        self.counts(parameters)
        for name, axes in self.axes.items():
            one, other = parameters[name], wide[name]
            kept = [
                (mine, its)
                for axis, mine, its in zip(axes, one.shape, other.shape, strict=True)
                if not axis.group
            ]
            if one.dtype != other.dtype or any(mine != its for mine, its in kept):
                raise ConfigError(
                    f"groups: {name!r} is {one.dtype}{list(one.shape)} and in the whole model "
                    f"{other.dtype}{list(other.shape)}; say what its axes number"
                )

    def places(self, name: str, units: Units, totals: Mapping[str, int], shape: Any) -> Any:
        """Return the index of an array's places that a narrow copy has.

        Args:
            name: Of the array.
            units: That the copy has.
            totals: That the wide model has, of each group.
            shape: Of the array in the wide model.
        """
        return np.ix_(
            *(
                axis.indices(units[axis.group], totals[axis.group])
                if axis.group
                else np.arange(size)
                for axis, size in zip(self.axes[name], shape, strict=True)
            )
        )


def choose_units(
    choice: Choice,
    counts: Mapping[str, int],
    totals: Mapping[str, int],
    *,
    round_number: int,
    device_id: str,
    seed: int,
) -> dict[str, NDArray[np.intp]]:
    """Return which units of each group a narrow copy has, in order.

    Args:
        choice: Which: the first, those of a window that moves on by one a round, or random ones.
        counts: That the copy has, of each group.
        totals: That there are.
        round_number: From 1.
        device_id: Whose copy it is.
        seed: Of random choices.
    """
    found: dict[str, NDArray[np.intp]] = {}
    for group, total in totals.items():
        count = counts[group]
        if choice == "random":
            generator = generator_for(seed, "units", round_number, device_id, group)
            units = generator.choice(total, count, replace=False)
        else:
            start = round_number - 1 if choice == "rolling" else 0
            units = (start + np.arange(count)) % total
        found[group] = np.sort(units).astype(np.intp)
    return found


def cut_out(parameters: Parameters, widths: Widths, units: Units) -> dict[str, NDArray[Any]]:
    """Return a narrow copy's parameters.

    Args:
        parameters: Of the wide model.
        widths: Of all its arrays.
        units: That the copy has.
    """
    totals = widths.counts(parameters)
    return {
        name: np.array(array[widths.places(name, units, totals, array.shape)], order="C")
        for name, array in parameters.items()
    }


def mean_of_copies(
    parameters: Parameters,
    updates: Sequence[ClientUpdate],
    widths: Widths,
    units_of: Callable[[ClientUpdate], Units],
) -> dict[str, NDArray[Any]]:
    """Return each number's mean over the copies that have it, weighted by examples.

    A number that no copy has stays as it is. Sums are float64.

    Args:
        parameters: Of the wide model, before.
        updates: Of narrow copies.
        widths: Of all arrays.
        units_of: Returns the units that an update's copy has.

    Raises:
        UpdateError: There are no updates, or two of one device.
    """
    ordered = in_order(updates)
    totals, units = widths.counts(parameters), [units_of(each) for each in ordered]
    found = {}
    for name, array in parameters.items():
        summed, weight = np.zeros(array.shape), np.zeros(array.shape)
        for update, chosen in zip(ordered, units, strict=True):
            places = widths.places(name, chosen, totals, array.shape)
            summed[places] += update.num_examples * update.parameters[name].astype(np.float64)
            weight[places] += update.num_examples
        mean = np.divide(summed, weight, out=array.astype(np.float64), where=weight > 0)
        found[name] = (mean.round() if array.dtype.kind in "iu" else mean).astype(array.dtype)
    return found
