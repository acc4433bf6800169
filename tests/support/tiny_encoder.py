"""A tiny encoder in ONNX, made in code: embedding, masked attention, and a decoy Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 50
HEADS = 2
HEAD_DIM = 8
WIDTH = HEADS * HEAD_DIM


def make_tiny_encoder(seed: int = 0) -> onnx.ModelProto:
    """Return a model with open dimensions ``batch`` and ``seq``.

    Inputs ``ids`` and ``mask``, int64 ``[batch, seq]``; output ``classes``, float32
    ``[batch, seq, 16]``: probabilities, from a Softmax that is no attention.
    """
    generator = np.random.default_rng(seed)
    weights = {
        name: generator.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4
        for name in ("wq", "wk", "wv", "wo")
    }
    weights["table"] = generator.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    constants = {
        "split": np.array([0, 0, HEADS, HEAD_DIM]),
        "join": np.array([0, 0, WIDTH]),
        "axes": np.array([1, 2]),
        "root": np.array(np.sqrt(HEAD_DIM), np.float32),
        "one": np.array(1, np.float32),
        "lowest": np.array(-1e9, np.float32),
    }
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"], "embed")]
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}1"], f"{name}/project"),
            helper.make_node("Reshape", [f"{name}1", "split"], [f"{name}2"], f"{name}/split"),
            helper.make_node("Transpose", [f"{name}2"], [name], f"{name}/heads", perm=order),
        ]
    nodes += [
        helper.make_node("Cast", ["mask"], ["m1"], "mask/cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m1", "axes"], ["m2"], "mask/axes"),
        helper.make_node("Sub", ["one", "m2"], ["m3"], "mask/flip"),
        helper.make_node("Mul", ["m3", "lowest"], ["m4"], "mask/scale"),
        helper.make_node("MatMul", ["q", "k"], ["s1"], "attention/scores"),
        helper.make_node("Div", ["s1", "root"], ["s2"], "attention/scale"),
        helper.make_node("Add", ["s2", "m4"], ["s3"], "attention/mask"),
        helper.make_node("Softmax", ["s3"], ["p"], "attention/softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["a1"], "attention/output"),
        helper.make_node("Transpose", ["a1"], ["a2"], "attention/heads", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["a2", "join"], ["a3"], "attention/join"),
        helper.make_node("MatMul", ["a3", "wo"], ["logits"], "classify/project"),
        helper.make_node("Softmax", ["logits"], ["classes"], "classify/softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny_encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
            for name in ("ids", "mask")
        ],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["batch", "seq", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in (weights | constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model


def write_tiny_encoder(folder: Path) -> Path:
    """Write the model to ``tiny.onnx`` in a folder and return the path."""
    path = folder / "tiny.onnx"
    onnx.save(make_tiny_encoder(), str(path))
    return path
