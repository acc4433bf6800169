"""Attention with rules of its own, trained, beside its definition in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.data import Examples
from hocket.runtime.steps import AttentionStep

BATCH, HEADS, SHARED, LENGTH, WIDTH = 3, 4, 2, 10, 8
RULES: dict[str, dict[str, Any]] = {
    "causal": {"is_causal": 1},
    "softcap": {"softcap": 2.0},
    "softcap-causal": {"softcap": 2.0, "is_causal": 1, "scale": 0.7},
    "mask": {"inputs": ("mask",)},
    "lengths": {"inputs": ("", "", "", "lengths")},
}


def _model(rules: dict[str, Any], head: Any) -> onnx.ModelProto:
    names = ("query", "key", "value", *rules.get("inputs", ()))
    attributes = {name: value for name, value in rules.items() if name != "inputs"}
    nodes = [
        helper.make_node("Attention", names, ["attended"], "attention", **attributes),
        helper.make_node("Flatten", ["attended"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"]),
    ]
    shapes = {
        "query": (BATCH, HEADS, LENGTH, WIDTH),
        "key": (BATCH, SHARED, LENGTH, WIDTH),
        "value": (BATCH, SHARED, LENGTH, WIDTH),
        "mask": (BATCH, 1, LENGTH, LENGTH),
        "lengths": (BATCH,),
    }
    types = {"mask": TensorProto.BOOL, "lengths": TensorProto.INT64}
    inputs = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shapes[name])
        for name in names
        if name
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (BATCH, 5))
    graph = helper.make_graph(
        nodes, "attention", inputs, [output], [numpy_helper.from_array(head, "head")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _defined(tensors: dict[str, torch.Tensor], rules: dict[str, Any]) -> torch.Tensor:
    key, value = (tensors[name].repeat_interleave(HEADS // SHARED, 1) for name in ("key", "value"))
    scores = tensors["query"] @ key.transpose(2, 3) * rules.get("scale", WIDTH**-0.5)
    if "softcap" in rules:
        scores = rules["softcap"] * torch.tanh(scores / rules["softcap"])
    seen = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
    if rules.get("is_causal"):
        seen = seen.tril()
    if "mask" in tensors:
        seen = seen & tensors["mask"]
    if "lengths" in tensors:
        seen = seen & (torch.arange(LENGTH) < tensors["lengths"][:, None, None, None])
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_gradients_are_those_of_the_definition(rules: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    head = generator.standard_normal((HEADS * LENGTH * WIDTH, 5)).astype(np.float32)
    inputs: dict[str, Any] = {
        name: generator.standard_normal((BATCH, heads, LENGTH, WIDTH)).astype(np.float32)
        for name, heads in (("query", HEADS), ("key", SHARED), ("value", SHARED))
    }
    if "mask" in rules.get("inputs", ()):
        inputs["mask"] = generator.random((BATCH, 1, LENGTH, LENGTH)) < 0.6
        inputs["mask"][..., 0] = True
    if "lengths" in rules.get("inputs", ()):
        inputs["lengths"] = np.array([4, LENGTH, 1], np.int64)
    examples = Examples(inputs, np.array([1, 4, 0]))
    artifact = hocket.compile(_model(rules, head)).artifact
    assert any(isinstance(step, AttentionStep) for step in artifact.steps)
    backend = CompiledBackend(artifact, Task())

    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    weight = torch.from_numpy(head.copy())
    leaves = [*(tensors[name] for name in ("query", "key", "value")), weight]
    for leaf in leaves:
        leaf.requires_grad_()
    scores = _defined(tensors, rules).flatten(1) @ weight
    loss = functional.cross_entropy(scores, torch.from_numpy(examples.targets))
    loss.backward()

    for name in ("query", "key", "value"):
        found = backend.input_gradient(examples, name)
        np.testing.assert_allclose(found, tensors[name].grad, rtol=1e-4, atol=2e-6, err_msg=name)
    metrics = backend.evaluate(examples).metrics
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
    backend.train(LocalTraining(batch_size=BATCH, learning_rate=1.0), examples, 0)
    moved = head - backend.parameters()["head"]
    np.testing.assert_allclose(moved, weight.grad, rtol=1e-4, atol=2e-6)
