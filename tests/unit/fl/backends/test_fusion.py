"""What nodes become one, what does not, and that the numbers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from hocket.fl.backends.fusion import fuse
from hocket.fl.backends.onnx_ops.node import Node
from hocket.fl.backends.program import make_program
from hocket.fl.backends.training_graph import StepGraph
from hocket.runtime.steps import HostStep

WEIGHTS = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "turned": torch.linspace(-1, 1, 12).reshape(4, 3),
    "bias": torch.linspace(0, 1, 3),
}
CONSTANTS = {"half": 0.5, "one": 1.0, "root": 2.0**0.5, "three": 3.0, "cubed": 0.044715}
CONSTANTS["slope"] = (2.0 / np.pi) ** 0.5


def _graph(*lines: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> StepGraph:
    """Return a graph of lines such as ``y = Add a b``."""
    nodes = []
    for number, line in enumerate(lines):
        result, _, (op_type, *inputs) = *line.split()[:2], line.split()[2:]
        own = attributes if op_type == "Transpose" else {}
        nodes.append(Node(op_type, "", f"n{number}", tuple(inputs), (result,), own, 17))
    step = HostStep("step", ("x",), outputs, 0, outputs, len(nodes))
    return StepGraph(
        step, tuple(nodes), {name: torch.tensor(value) for name, value in CONSTANTS.items()}
    )


def _fused(graph: StepGraph) -> StepGraph:
    return fuse(graph, {name: tensor.dim() for name, tensor in WEIGHTS.items()})


def _run(graph: StepGraph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    given = {"x": x, **WEIGHTS}
    program = make_program(
        [graph], {}, given, graph.step.outputs, is_training=True, generator=torch.Generator()
    )
    return program.run(given)


def _assert_same(graph: StepGraph, width: int) -> list[str]:
    x = torch.linspace(-5, 5, 2 * width).reshape(2, width)
    fused = _fused(graph)
    found, wanted = _run(fused, x), _run(graph, x)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=3e-6)
    return [node.op_type for node in fused.nodes]


def test_a_product_with_a_turned_weight_and_its_bias_become_one() -> None:
    graph = _graph("t = Transpose weight", "m = MatMul x t", "y = Add bias m", perm=[1, 0])
    assert _assert_same(graph, 4) == ["Linear"]


def test_a_product_with_a_weight_as_it_lies_and_its_bias_become_one() -> None:
    assert _assert_same(_graph("m = MatMul x turned", "y = Add m bias"), 4) == ["LinearInOut"]


def test_a_product_that_another_needs_keeps_its_sum() -> None:
    graph = _graph("m = MatMul x turned", "y = Add m bias", outputs=("y", "m"))
    assert _assert_same(graph, 4) == ["LinearInOut", "Add"]


def test_a_product_of_no_weight_stays() -> None:
    graph = _graph("t = Transpose x", "y = MatMul x t", perm=[1, 0])
    assert _assert_same(graph, 4) == ["Transpose", "MatMul"]


GELU = ("d = Div x root", "e = Erf d", "p = Add e one")
GELU_FORMS = {
    "outside": (*GELU, "m = Mul x p", "y = Mul m half"),
    "inside": (*GELU, "m = Mul p half", "y = Mul x m"),
    "before": ("h = Mul x half", *GELU, "y = Mul h p"),
}
TANH = (
    "c = Pow x three",
    "k = Mul c cubed",
    "s = Add x k",
    "t = Mul s slope",
    "e = Tanh t",
    "p = Add e one",
    "h = Mul x half",
    "y = Mul h p",
)


@pytest.mark.parametrize("lines", GELU_FORMS.values(), ids=GELU_FORMS.keys())
def test_gelu_in_its_forms_becomes_one(lines: tuple[str, ...]) -> None:
    graph = _graph(*lines)
    assert _assert_same(graph, 6) == ["Gelu"]
    x = torch.linspace(-4, 4, 12).reshape(2, 6)
    torch.testing.assert_close(_run(_fused(graph), x)["y"], functional.gelu(x))


def test_gelu_by_tanh_becomes_one() -> None:
    assert _assert_same(_graph(*TANH), 6) == ["Gelu"]
    assert _fused(_graph(*TANH)).nodes[0].attributes == {"approximate": "tanh"}


def test_silu_becomes_one() -> None:
    assert _assert_same(_graph("s = Sigmoid x", "y = Mul x s"), 6) == ["Swish"]


@pytest.mark.parametrize(
    "lines",
    [
        ("d = Div x root", "e = Erf d", "p = Add e half", "m = Mul x p", "y = Mul m half"),
        ("s = Sigmoid x", "y = Mul s s"),
        ("s = Sigmoid x", "y = Add x s"),
        ("t = Tanh x", "y = Mul x t"),
    ],
    ids=["another-number", "square", "sum", "tanh"],
)
def test_what_is_almost_an_activation_stays(lines: tuple[str, ...]) -> None:
    assert len(_assert_same(_graph(*lines), 6)) == len(lines)


def test_an_activation_stays_where_a_part_of_it_is_wanted() -> None:
    graph = _graph(*GELU_FORMS["outside"], outputs=("y", "p"))
    assert "Erf" in _assert_same(graph, 6)


_PIECES = st.sampled_from(["x", "a0", "a1", "a2", "half", "one", "root"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Add", "Mul", "Sub", "Erf", "Tanh", "Sigmoid"]), _PIECES, _PIECES
        ),
        min_size=3,
        max_size=8,
    )
)
def test_any_graph_of_scalar_operators_keeps_its_numbers(
    pieces: list[tuple[str, str, str]],
) -> None:
    made = ["x", *CONSTANTS]
    lines = ["z = Mul x one"]
    for number, (op_type, one, other) in enumerate(pieces):
        # Names that are not made yet stand for the value made last.
        last = f"a{number - 1}" if number else "z"
        operands = [each if each in made else last for each in (one, other)]
        operands = operands[:1] if op_type in ("Erf", "Tanh", "Sigmoid") else operands
        lines.append(f"a{number} = {op_type} {' '.join(operands)}")
        made.append(f"a{number}")
    outputs = (f"a{len(pieces) - 1}",)
    graph = _graph(*lines, outputs=outputs)
    x = torch.linspace(-2, 2, 8).reshape(2, 4)
    found, wanted = _run(_fused(graph), x)[outputs[0]], _run(graph, x)[outputs[0]]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
