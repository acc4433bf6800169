"""What an entry of a mask is, from where it stands, while the sizes of the mask are open.

An entry is followed back through the graph by its indices, sums of unknown rows, columns and
dimensions. Positions stay such sums; of all other numbers two bounds are kept. What a comparison of
positions comes to follows from the facts that are known of the unknowns, so the same entry may be
looked at ahead of its query, and then behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hocket.compiler.graph.affine import Affine

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.affine import Facts

Index = tuple[Affine | None, ...]
"""Where an entry stands along each axis; None for anywhere."""

Sizes = tuple[Affine | None, ...] | None
"""The shape of a value, None for a size that is not known, or where the rank is not."""


@dataclass(frozen=True)
class Element:
    """What is known of an entry; truth values are 0 and 1.

    Attributes:
        low, high: It lies between these.
        position: What it is exactly, where that is a sum of unknowns.
    """

    low: float
    high: float
    position: Affine | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is the same wherever the indices may point."""
        return self.low == self.high


ANYTHING = Element(-math.inf, math.inf)


class Finder(Protocol):
    """What the rules of operators ask of ``ElementFinder``.

    Attributes:
        facts: Of the unknowns in indices.
        undecided: Sums whose sign would have told what a comparison comes to, but is not known.
    """

    facts: Facts
    undecided: list[Affine]

    def shape(self, value: ir.Value) -> Sizes:
        """Return the sizes of a value."""

    def find(self, value: ir.Value | None, index: Index) -> Element:
        """Return what is known of an entry."""

    def find_like(self, value: ir.Value | None, output: ir.Value, index: Index) -> Element:
        """Return what is known of the entry of an input that broadcasts to an entry."""

    def find_any(self, value: ir.Value | None) -> Element:
        """Return what is known of all entries of a value."""

    def between(self, position: Affine) -> Element:
        """Return a position with its bounds."""
