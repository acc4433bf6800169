"""Exact device types: which requirements a device meets, as a bit mask.

Each requirement, least values of any number of attributes, is a *group* and has a bit. An *atom* is
all devices that meet the same requirements. A device's atom is looked up by where its attributes
lie among the thresholds that requirements have, so that a check-in costs one search a dimension,
whatever the number of groups.
"""

from __future__ import annotations

from bisect import bisect_right
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Requirement = tuple[tuple[str, float], ...]

ABSENT = float("-inf")
"""In place of an attribute that a device does not have."""


def requirement_of(minimum: Mapping[str, float]) -> Requirement:
    """Return least values in the form in which equal ones are equal."""
    return tuple(sorted(minimum.items()))


class Eligibility:
    """The requirements of all jobs, and the device types that they tell apart.

    Args:
        requirements: Each once; a group's number is its position.

    Attributes:
        requirements: As given.
        groups: The number of each.
    """

    def __init__(self, requirements: Iterable[Requirement] = ()) -> None:
        self.requirements = tuple(requirements)
        self.groups = {each: number for number, each in enumerate(self.requirements)}
        thresholds: dict[str, set[float]] = {}
        for requirement in self.requirements:
            for name, value in requirement:
                # Nothing meets what is no number, so nothing is told apart by it.
                thresholds.setdefault(name, set()).update(() if isnan(value) else (value,))
        self._thresholds = tuple((name, sorted(values)) for name, values in thresholds.items())
        self._atoms_by_cell: dict[tuple[int, ...], int] = {}
        self._atoms_by_mask: dict[int, int] = {}

    @property
    def masks(self) -> tuple[int, ...]:
        """Of the atoms met so far: one bit for each group that may use them."""
        return tuple(self._atoms_by_mask)

    @property
    def matrix(self) -> NDArray[np.bool_]:
        """Whether a group may use an atom, ``[groups, atoms]``."""
        rows = [[bool(mask >> group & 1) for mask in self.masks] for group in self.groups.values()]
        return np.array(rows, np.bool_).reshape(len(self.requirements), len(self.masks))

    def atom_of(self, attributes: Mapping[str, float]) -> int:
        """Return the atom of a device; one that is met first gets the next number."""
        cell = tuple(
            [
                bisect_right(values, _number(attributes.get(name, ABSENT)))
                for name, values in self._thresholds
            ]
        )
        atom = self._atoms_by_cell.get(cell)
        if atom is None:
            mask = sum(
                1 << group
                for group, requirement in enumerate(self.requirements)
                if all(attributes.get(name, ABSENT) >= value for name, value in requirement)
            )
            atom = self._atoms_by_mask.setdefault(mask, len(self._atoms_by_mask))
            self._atoms_by_cell[cell] = atom
        return atom


def _number(value: float) -> float:
    return ABSENT if isnan(value) else value
