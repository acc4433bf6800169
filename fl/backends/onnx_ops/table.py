"""All operators by domain and name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.fl.backends.onnx_ops.constants import CONSTANTS
from hocket.fl.backends.onnx_ops.elementwise import ELEMENTWISE
from hocket.fl.backends.onnx_ops.indexing import INDEXING
from hocket.fl.backends.onnx_ops.movement import MOVEMENT
from hocket.fl.backends.onnx_ops.normalization import NORMALIZATION
from hocket.fl.backends.onnx_ops.products import FUSED_PRODUCTS, PRODUCTS
from hocket.fl.backends.onnx_ops.reductions import REDUCTIONS
from hocket.fl.backends.onnx_ops.windows import WINDOWS
from hocket.fl.core.errors import CapabilityError

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Node, Operator

FUSED_DOMAIN = "hocket.fused"
"""Of operators that are made of several of ONNX's, see ``fusion.py``."""

FAMILIES = (
    CONSTANTS,
    ELEMENTWISE,
    INDEXING,
    MOVEMENT,
    NORMALIZATION,
    PRODUCTS,
    REDUCTIONS,
    WINDOWS,
)

OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", name): operator for family in FAMILIES for name, operator in family.items()},
    **{(FUSED_DOMAIN, name): operator for name, operator in FUSED_PRODUCTS.items()},
}
"""Operators by domain and name; ONNX's own domain is empty."""


def find_operator(node: Node) -> Operator:
    """Return the operator of a node.

    Raises:
        CapabilityError: There is none.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    operator = OPERATORS.get((domain, node.op_type))
    if operator is None:
        raise CapabilityError(
            f"{node}: there is no such operator to train with; to add it, write a function from a "
            "Site to what computes it, in the file of its family in hocket/fl/backends/onnx_ops, "
            "put it into the dict there, and give it a case in tests/unit/fl/backends/test_onnx_ops"
        )
    return operator
