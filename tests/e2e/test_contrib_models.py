"""A trained model with onnxruntime's attention operators, as onnxruntime's own tools make it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from support.real_models import minilm_path

import hocket
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.model

DIMS = {"batch_size": 2, "sequence_length": 48}


def fused_model(folder: Path, *, multi_head: bool) -> Path:
    """Return the model with its attention fused into one operator a layer."""
    pytest.importorskip("sympy", reason="onnxruntime's optimizer infers shapes with sympy")
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    fused = optimizer.optimize_model(
        str(minilm_path()),
        model_type="bert",
        num_heads=12,
        hidden_size=384,
        optimization_options=options,
        opt_level=0,
    )
    path = folder / "fused.onnx"
    fused.save_model_to_file(str(path))
    return path


def quantized_model(folder: Path) -> Path:
    """Return the model with its fused attention of bytes."""
    quantize = pytest.importorskip("onnxruntime.quantization").quantize_dynamic
    path = folder / "quantized.onnx"
    fused = fused_model(folder, multi_head=False)
    quantize(str(fused), str(path), extra_options={"DefaultTensorType": 1})
    return path


def feeds() -> dict[str, np.ndarray]:
    mask = np.ones((2, 48), np.int64)
    mask[0, 30:] = 0
    ids = np.random.default_rng(0).integers(0, 30522, (2, 48))
    return {"input_ids": ids, "attention_mask": mask}


def assert_compiled(path: Path, operator: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compile a model, see that each of its operators became an attention, and run both."""
    module = hocket.compile(path, "host", DIMS)
    steps = [step for step in module.artifact.steps if isinstance(step, AttentionStep)]
    assert len(steps) == 3
    assert all(step.form.startswith(f"com.microsoft::{operator} written out") for step in steps)
    assert all(step.name.startswith("Attention_") for step in steps)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ours, theirs = (engine.run(None, feeds()) for engine in (module.session(), reference))
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize("multi_head", [False, True])
def test_fused_attention(tmp_path: Path, multi_head: bool) -> None:
    path = fused_model(tmp_path, multi_head=multi_head)
    for mine, theirs in assert_compiled(path, "MultiHeadAttention" if multi_head else "Attention"):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


def test_quantized_attention(tmp_path: Path) -> None:
    for mine, theirs in assert_compiled(quantized_model(tmp_path), "QAttention"):
        # What follows quantizes its inputs anew: a number that differs in its last digit may come
        # to lie on the next of 256 steps, so some numbers are off, and the rest are the same.
        differences = np.abs(mine.astype(np.float64) - theirs)
        assert differences.max(initial=0.0) < 2e-2
        assert differences.mean() < 1e-3


@pytest.mark.parametrize("multi_head", [False, True])
def test_fused_attention_at_any_length(tmp_path: Path, multi_head: bool) -> None:
    path = fused_model(tmp_path, multi_head=multi_head)
    spans = {"batch_size": (1, 8), "sequence_length": (1, 512)}
    module = hocket.compile(path, "host", spans)
    assert len(module.artifact.attention_steps) == 3
    assert module.artifact.left_to_host == ()
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for length in (48, 9):
        given = {name: array[:, :length] for name, array in feeds().items()}
        ours, theirs = (engine.run(None, given) for engine in (module.session(), reference))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=2e-5, atol=2e-5)
