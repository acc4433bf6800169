"""Products that are written as Einsum, written as MatMul, so that one matcher sees both."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from hocket.compiler.graph.values import is_op, static_shape


@dataclass(frozen=True)
class _Product:
    """An Einsum that is a batch of matrix products.

    Attributes:
        batch: Labels of both operands and of the output, in the output's order.
        row, inner, column: Labels of the left operand, of both, and of the right operand.
        is_swapped: Whether the left operand is the second input.
    """

    batch: str
    row: str
    inner: str
    column: str
    is_swapped: bool


class EinsumProductsPass(ir.passes.InPlacePass):
    """Write each Einsum that multiplies a batch of matrices as a MatMul between Transposes.

    Before and after, as XLNet and Keras have it::

        s = Einsum("ibnd,jbnd->bnij", q, k)
        qt = Transpose(q, [1,2,0,3]); kt = Transpose(k, [1,2,3,0]); s = MatMul(qt, kt)

    One with an ellipsis, with more or fewer than one axis of a kind, or whose sizes are not known
    or broadcast, is left as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the nodes of the main graph."""
        modified = False
        for node in tuple(model.graph):
            if is_op(node, "Einsum") and len(node.inputs) == 2:
                modified = _rewrite(node, model.graph) or modified
        return ir.passes.PassResult(model, modified)


def _rewrite(node: ir.Node, graph: ir.Graph) -> bool:
    terms = _terms(node.attributes["equation"].as_string())
    product = None if terms is None else _read_product(*terms)
    if terms is None or product is None:
        return False
    first, second = node.inputs
    sizes = _sizes(terms, (static_shape(first), static_shape(second)))
    if sizes is None or first is None or second is None or first is second:
        return False
    written = {first: terms[0], second: terms[1]}
    operands = (second, first) if product.is_swapped else (first, second)
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], labels: str, **attributes: list[int]) -> ir.Value:
        output = ir.Value(shape=ir.Shape([sizes[label] for label in labels]), type=operands[0].type)
        nodes.append(ir.node(op_type, inputs, attributes, outputs=[output]))
        return output

    def turned(value: ir.Value, before: str, after: str) -> ir.Value:
        if before == after:
            return value
        return add("Transpose", [value], after, perm=[before.index(label) for label in after])

    left = turned(operands[0], written[operands[0]], product.batch + product.row + product.inner)
    right = turned(
        operands[1], written[operands[1]], product.batch + product.inner + product.column
    )
    labels = product.batch + product.row + product.column
    result = turned(add("MatMul", [left, right], labels), labels, terms[2])
    for each in nodes:
        each.name = f"{node.name}/{each.op_type}"
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [node.outputs[0]], [result])
    return True


def _terms(equation: str) -> tuple[str, str, str] | None:
    """Return the labels of two operands and of the output; None where they are not all given."""
    operands, arrow, output = equation.replace(" ", "").partition("->")
    first, comma, second = operands.partition(",")
    terms = (first, second, output)
    if not arrow or not comma or not all(term.isalpha() for term in terms):
        return None
    return terms if all(len(set(term)) == len(term) for term in terms) else None


def _read_product(first: str, second: str, output: str) -> _Product | None:
    shared = set(first) & set(second)
    rows, columns = set(first) - shared, set(second) - shared
    inner = shared - set(output)
    batch = "".join(label for label in output if label in shared)
    if not batch or not len(rows) == len(columns) == len(inner) == 1:
        return None
    if set(output) != (shared - inner) | rows | columns:
        return None
    (row,), (column,), (between,) = rows, columns, inner
    if output.index(column) < output.index(row):
        return _Product(batch, column, between, row, is_swapped=True)
    return _Product(batch, row, between, column, is_swapped=False)


def _sizes(
    terms: tuple[str, str, str], shapes: tuple[tuple[int, ...] | None, ...]
) -> dict[str, int] | None:
    """Return the size of each label; None if one is not known, or has two."""
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=False):
        if shape is None or len(shape) != len(labels):
            return None
        for label, size in zip(labels, shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return None
    return sizes
