"""Attention in branches and bodies: left to the host as it is, and never without a word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from support.graph_wing import attention_regions, host_regions
from support.onnx_models import random_feeds
from support.partition_executor import run_partitioned, run_reference
from typer.testing import CliRunner

from hocket.cli import app
from hocket.compiler.driver import cut_model

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.compiler.graph.regions import PartitionedModel

WRITTEN_OUT = """
  kt = Transpose<perm = [0, 2, 1]>(x)
  s = MatMul(x, kt)
  p = Softmax<axis = -1>(s)
  y = MatMul(p, x)
"""
STANDARD = "y = Attention<q_num_heads = 2, kv_num_heads = 2, softcap = 2.0>(x, x, x)"
CONTRIB = "y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)"
IN_A_FUNCTION = "y = local.attend(x)"

BRANCH = """
{
  z = If<
    then_branch = then_graph () => (float[2, 5, 8] y) { BODY },
    else_branch = else_graph () => (float[2, 5, 8] other) { other = Neg(x) }
  >(flag)
}
"""
BODY_OF_LOOP = """
{
  n = Constant<value = int64 {3}>()
  go = Constant<value = bool {1}>()
  z = Loop<
    body = repeated (int64 i, bool go_in, float[2, 5, 8] x) => (bool go_out, float[2, 5, 8] y) {
      go_out = Identity(go_in)
      BODY
    }
  >(n, go, x)
}
"""
BODY_OF_SCAN = """
{
  one = Constant<value = int64[1] {0}>()
  xs = Unsqueeze(x, one)
  zs = Scan<
    num_scan_inputs = 1,
    body = scanned (float[2, 5, 8] x) => (float[2, 5, 8] y) { BODY }
  >(xs)
  z = Squeeze(zs, one)
}
"""
NESTED = BODY_OF_LOOP.replace(
    "BODY",
    "y = If<then_branch = inner () => (float[2, 5, 8] y) { BODY },"
    " else_branch = outer () => (float[2, 5, 8] other) { other = Neg(x) }>(flag)",
)


def model_of(graph: str, body: str) -> onnx.ModelProto:
    """Return a model with an attention inside; the batch may stay open."""
    text = f"""
<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "local" : 1]>
outer (float[2, 5, 8] x, bool flag) => (float[2, 5, 8] z)
{graph.replace("BODY", body)}
<domain: "local", opset_import: ["" : 23]>
attend (x) => (y) {{ {WRITTEN_OUT} }}
"""
    return onnx.parser.parse_model(text)


def cut_as_compiled(model: onnx.ModelProto) -> PartitionedModel:
    return cut_model(model)[1]


@pytest.mark.parametrize(
    ("graph", "outer"),
    [(BRANCH, "If"), (BODY_OF_LOOP, "Loop"), (BODY_OF_SCAN, "Scan"), (NESTED, "Loop")],
    ids=["branch", "loop", "scan", "nested"],
)
@pytest.mark.parametrize(
    ("body", "operator"),
    [
        (WRITTEN_OUT, "Softmax"),
        (STANDARD, "Attention"),
        (CONTRIB, "com.microsoft::MultiHeadAttention"),
        (IN_A_FUNCTION, "Softmax"),
    ],
    ids=["written-out", "standard", "contrib", "function"],
)
def test_it_is_listed_with_the_reason(graph: str, outer: str, body: str, operator: str) -> None:
    model = model_of(graph, body)
    partitioned = cut_as_compiled(model)
    assert attention_regions(partitioned) == []
    (left,) = partitioned.not_taken
    assert left.op == operator
    assert left.node
    assert left.reason.startswith(f"it is inside a graph of {outer} '")
    assert left.reason.endswith("only attention of the main graph is compiled")


@pytest.mark.parametrize("graph", [BRANCH, BODY_OF_LOOP, BODY_OF_SCAN, NESTED])
def test_a_standard_attention_runs_as_it_is_defined(graph: str) -> None:
    model = model_of(graph, STANDARD)
    partitioned = cut_as_compiled(model)
    (region,) = host_regions(partitioned)
    nodes = ir.traversal.RecursiveGraphIterator(region.model.graph)
    assert "Attention" not in {node.op_type for node in nodes}
    feeds = random_feeds(model)
    found, wanted = run_partitioned(partitioned, feeds), run_reference(model, feeds)
    assert abs(found[0] - wanted[0]).max() < 2e-5


def test_inspect_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "branch.onnx"
    onnx.save(model_of(BRANCH, WRITTEN_OUT), path)
    result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert result.exit_code == 0, result.output
    (left,) = json.loads(result.output)["not_taken"]
    assert left["op"] == "Softmax"
    assert "inside a graph of If" in left["reason"]
