"""What passes write on nodes for later passes; no file holds it.

The name of a note begins with ``hocket/``, so that it is nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_WHY_LEFT = "hocket/why left"
_FOR_GOOD = "hocket/left for good"
_MADE_OF = "hocket/made of"


def note_why_left(node: ir.Node, reason: str) -> None:
    """Write on an operator why it was not written out."""
    node.meta[_WHY_LEFT] = reason


def why_left(node: ir.Node) -> str | None:
    """Return why an operator was not written out; None if nobody tried."""
    reason = node.meta.get(_WHY_LEFT)
    return reason if isinstance(reason, str) else None


def note_left_for_good(node: ir.Node, reason: str) -> None:
    """Write on an operator that it is not to be written out, even where it could be, and why."""
    note_why_left(node, reason)
    node.meta[_FOR_GOOD] = True


def is_left_for_good(node: ir.Node) -> bool:
    """Whether an operator is not to be written out, even where it could be."""
    return node.meta.get(_FOR_GOOD) is True


def note_made_of(node: ir.Node, operator: str) -> None:
    """Write on a node which operator it was written out of."""
    node.meta[_MADE_OF] = operator


def made_of(node: ir.Node) -> str | None:
    """Return which operator a node was written out of; None if it is the model's own."""
    operator = node.meta.get(_MADE_OF)
    return operator if isinstance(operator, str) else None
