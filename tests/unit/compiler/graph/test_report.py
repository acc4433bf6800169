"""The report says what was taken, what was not, and why."""

from __future__ import annotations

from support.graph_wing import cut
from support.onnx_models import Choices, GraphBuilder, bert_like_model, decomposed_attention_model

from hocket.compiler.graph.report import make_report


def test_an_attention_is_told_in_four_lines() -> None:
    choices = Choices(scale_op="Div", scale=0.5, mask="add", mask_shape=(2, 1, 1, 5))
    assert str(make_report(cut(decomposed_attention_model(choices)))).splitlines() == [
        "1 attention region:",
        "  n6_Softmax",
        "    batch 2, heads 3, lengths 4x5, dim 6/7, float32, additive mask, scale 0.5",
        "    decomposed: Div, Add mask",
        "    reads bhnd, writes bhnd",
        "0 host regions, 0 nodes",
    ]


def test_what_was_left_is_told_with_its_reason() -> None:
    build = GraphBuilder()
    build.op("Softmax", build.input("x", (2, 3)), axis=-1, name="y")
    build.output("y", (2, 3))
    assert str(make_report(cut(build.build()))).splitlines() == [
        "no attention region",
        "1 node left to the host:",
        "  n1_Softmax (Softmax): its probabilities 'y' are an output of the model",
        "1 host region, 1 node",
    ]


def test_the_data_agree_with_the_text() -> None:
    report = make_report(cut(bert_like_model(), {"batch": 2, "length": 5}))
    assert len(report.taken) == 2
    assert list(report.host_nodes) == ["host.0", "host.1", "host.2"]
    assert "with batch=2, length=5" in str(report)
    assert f"3 host regions, {sum(report.host_nodes.values())} nodes" in str(report)


def test_different_layouts_are_told_apart() -> None:
    text = str(make_report(cut(decomposed_attention_model(Choices(rank=3)))))
    assert "reads bnhd, writes bnhd" in text
