"""ONNX's own node tests for Attention, through ``hocket.backend``.

Each case comes twice: as one operator, and (``_expanded``) as the primitive operators of its
function body, which must be recognised again. What no kernel takes, a host region runs; the result
must be right either way.
"""

from __future__ import annotations

import re
import unittest
import warnings
from typing import Any

import onnx
import pytest
from onnx.backend.test import BackendTest

from hocket import backend
from hocket.backend import HocketBackend

BFLOAT16 = "onnxruntime, which runs what no kernel takes, has no bfloat16 arithmetic on the CPU"
EXCLUSIONS = {
    r"_bf16(_expanded)?_cpu$": BFLOAT16,
    r"^test_attention_4d_diff_heads_mask4d_padded_kv_cpu$": (
        "left to onnxruntime, which refuses a mask shorter than the padded keys"
    ),
    r"^test_attention_4d_with_past_and_present_qk_matmul_bias_[34]d_mask_causal_cpu$": (
        "left to onnxruntime, whose masked scores are finite where the standard has -inf"
    ),
}
"""Tests that are expected to fail, by pattern, with the reason."""

MIN_TAKEN = {"operator": 34, "expanded": 57}
"""Cases that kernels take, of 93 each; raise the numbers as more forms are compiled."""


def _load() -> type[unittest.TestCase]:
    with warnings.catch_warnings():
        # Making the cases of all other operators overflows and divides by zero on purpose.
        warnings.simplefilter("ignore")
        suite = BackendTest(HocketBackend, __name__)
    suite.include(r"^test_attention_.*_cpu$")
    cases: type[unittest.TestCase] = suite.test_cases["OnnxBackendNodeModelTest"]
    # It holds the cases of all operators, those of others as skips; below, each is called by name.
    cases.__test__ = False  # type: ignore[attr-defined]
    return cases


CASES = _load()
NAMES = sorted(name for name in dir(CASES) if re.search(r"^test_attention_.*_cpu$", name))


def reason_to_exclude(name: str) -> str | None:
    """Return why a test is expected to fail; None for one that must pass."""
    return next((why for pattern, why in EXCLUSIONS.items() if re.search(pattern, name)), None)


def models() -> dict[str, onnx.ModelProto]:
    """Return the models of the tests, by name."""
    from onnx.backend.test.loader import load_node_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            case.name: case.model
            for case in load_node_model_tests()
            if case.name.startswith("test_attention_") and case.model is not None
        }


def test_all_cases_are_there() -> None:
    assert len(NAMES) == 186


@pytest.mark.parametrize("name", [name for name in NAMES if not reason_to_exclude(name)])
def test_node(name: str) -> None:
    CASES(name).debug()


@pytest.mark.parametrize("name", [name for name in NAMES if reason_to_exclude(name)])
def test_no_exclusion_is_stale(name: str) -> None:
    """A test that passes by now must lose its exclusion."""
    try:
        CASES(name).debug()
    except unittest.SkipTest as skipped:
        pytest.fail(f"{name} did not run: {skipped}")
    except Exception:  # noqa: BLE001 (whatever it is, the exclusion is still needed)
        return
    pytest.fail(f"{name} passes: remove its exclusion")


@pytest.mark.parametrize("pattern", EXCLUSIONS)
def test_every_exclusion_excludes_something(pattern: str) -> None:
    assert any(re.search(pattern, name) for name in NAMES)


def test_kernels_take_as_many_cases_as_ever() -> None:
    taken = {"operator": 0, "expanded": 0}
    left: list[str] = []
    for name, model in models().items():
        artifact = HocketBackend.prepare(model).compiled({}).artifact
        if artifact.attention_steps:
            taken["expanded" if name.endswith("_expanded") else "operator"] += 1
        else:
            # Nothing is left to the host without a word.
            assert artifact.left_to_host, name
            left.append(f"{name}: {artifact.left_to_host[0].reason}")
    message = f"kernels took {taken} of {len(NAMES)}; left to the host:\n" + "\n".join(left)
    assert all(taken[kind] >= MIN_TAKEN[kind] for kind in taken), message


def test_only_the_cpu_is_supported() -> None:
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(ValueError, match="'CUDA' is not supported"):
        backend.prepare(_identity(), "CUDA")


def test_run_model_takes_arrays_scalars_and_dicts() -> None:
    model = _identity()
    for inputs in (2.0, [2.0], {"x": 2.0}):
        (result,) = backend.run_model(model, inputs)
        assert result.shape == ()
        assert result == 2
    with pytest.raises(ValueError, match="1 inputs"):
        backend.run_model(model, [1.0, 2.0])


def test_run_node_runs_one_node() -> None:
    import numpy as np

    node = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    x = np.array([[0.0, 0.0, 0.0, 0.0]], np.float32)
    outputs: Any = backend.run_node(node, [x])
    np.testing.assert_allclose(outputs.y, [[0.25] * 4])


def test_run_node_leaves_optional_inputs_out() -> None:
    import numpy as np

    node = onnx.helper.make_node("Clip", ["x", "", "high"], ["y"])
    x = np.array([0.0, 5.0], np.float32)
    (result,) = backend.run_node(node, [x, None, np.array(2.0, np.float32)])
    assert result.tolist() == [0, 2]


def test_a_model_with_open_dimensions_is_compiled_for_its_feeds() -> None:
    import numpy as np

    model = _identity(["n"])
    representation = backend.prepare(model)
    for size in (2, 3):
        (result,) = representation.run(np.ones(size, np.float32))
        assert result.shape == (size,)


def _identity(shape: list[str] | None = None) -> onnx.ModelProto:
    helper = onnx.helper
    value = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape or [])
        for name in ("x", "y")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "identity", value[:1], value[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model
