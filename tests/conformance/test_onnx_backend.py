"""ONNX's own node tests for Attention and what stands beside it, through ``hocket.backend``.

Each case comes twice: as one operator, and (``_expanded``) as the primitive operators of its
function body, which must be recognised again. What no kernel takes, a host region runs; the result
must be right either way. None is left out.
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

CASES_RUN = r"^test_(attention|rotary_embedding|rms_normalization)(_.*)?_cpu$"

MIN_TAKEN = {"operator": 75, "expanded": 75}
"""Attentions that kernels take, of 93 each; in 18 of each the scores are an output."""


def _load() -> type[unittest.TestCase]:
    with warnings.catch_warnings():
        # Making the cases of all other operators overflows and divides by zero on purpose.
        warnings.simplefilter("ignore")
        suite = BackendTest(HocketBackend, __name__)
    suite.include(CASES_RUN)
    cases: type[unittest.TestCase] = suite.test_cases["OnnxBackendNodeModelTest"]
    # It holds the cases of all operators, those of others as skips; below, each is called by name.
    cases.__test__ = False  # type: ignore[attr-defined]
    return cases


CASES = _load()
NAMES = sorted(name for name in dir(CASES) if re.search(CASES_RUN, name))


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


@pytest.mark.parametrize(
    ("kind", "count"), [("attention", 186), ("rotary_embedding", 16), ("rms_normalization", 38)]
)
def test_all_cases_are_there(kind: str, count: int) -> None:
    assert len([name for name in NAMES if name.startswith(f"test_{kind}_")]) == count


@pytest.mark.parametrize("name", NAMES)
def test_node(name: str) -> None:
    try:
        CASES(name).debug()
    except unittest.SkipTest as skipped:
        pytest.fail(f"{name} did not run: {skipped}")


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
    message = f"kernels took {taken} of 93 each; left to the host:\n" + "\n".join(left)
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
