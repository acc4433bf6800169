from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest

from hocket.hwmodels.dtypes import DType
from hocket.runtime.signature import TensorSpec
from hocket.verification import ReferenceSession, VerificationError, absolute_errors, compare


class FakeSession:
    """Doubles its input, with an error added to it."""

    def __init__(self, error: float | np.ndarray[Any, Any] = 0.0) -> None:
        self.error = error

    open_dims: ClassVar[dict[str, tuple[int, int]]] = {}

    def sized_inputs(self, dims: Any = None) -> tuple[TensorSpec, ...]:
        del dims
        return (TensorSpec("x", DType.FLOAT32, (2, 2)),)

    def get_outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("y", DType.FLOAT32, (2, 2)),)

    def run(self, names: Any, feeds: Any) -> list[Any]:
        return [feeds["x"] * 2 + np.asarray(self.error, feeds["x"].dtype)]


def reference(names: Any, feeds: Any) -> list[Any]:
    return FakeSession().run(names, feeds)


def test_equal_numbers_are_ok_on_every_sample() -> None:
    result = compare(FakeSession(), reference, samples=2)
    assert result.ok
    assert result.samples == ("random.0", "random.1", "zeros", "ones", "large")
    (output,) = result.outputs
    assert output.name == "y"
    assert output.max_abs_error == 0
    assert output.num_elements == 5 * 4


def test_an_error_past_tolerance_is_found_and_measured() -> None:
    result = compare(FakeSession(0.01), reference, samples=1, rtol=0, atol=1e-3)
    assert not result.ok
    (output,) = result.outputs
    assert output.max_abs_error == pytest.approx(0.01, rel=1e-3)
    assert output.num_mismatched == output.num_elements


def test_an_error_within_tolerance_is_ok() -> None:
    assert compare(FakeSession(1e-4), reference, rtol=0, atol=1e-3).ok


def test_relative_tolerance_grows_with_the_reference() -> None:
    # `ones` gives a reference of 2, `zeros` one of 0: only the relative part tells them apart.
    result = compare(FakeSession(0.1), reference, samples=0, rtol=0.1, atol=0.01)
    (output,) = result.outputs
    assert output.num_mismatched >= 4
    assert output.num_mismatched < output.num_elements


def test_a_nan_of_ours_alone_is_an_infinite_error() -> None:
    error = np.zeros((2, 2))
    error[0, 0] = np.nan
    (output,) = compare(FakeSession(error), reference, samples=1).outputs
    assert math.isinf(output.max_abs_error)
    assert not output.ok


def test_equal_nans_and_infinities_are_no_error() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert absolute_errors(values, values).tolist() == [0, 0, 0, 0]
    other = np.array([1.0, -np.inf, 0.0, np.nan], np.float32)
    assert np.isinf(absolute_errors(values, other)).all()


def test_another_shape_is_an_infinite_error() -> None:
    (output,) = compare(FakeSession(), lambda *_: [np.zeros((2, 3))], samples=1).outputs
    assert math.isinf(output.max_abs_error)
    assert not output.ok


def test_progress_is_told_each_sample() -> None:
    seen: list[tuple[str, int]] = []
    compare(FakeSession(), reference, samples=1, progress=lambda *args: seen.append(args))
    assert seen == [("random.0", 4), ("zeros", 4), ("ones", 4), ("large", 4)]


def test_a_missing_model_is_named(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx: no such file"):
        ReferenceSession(tmp_path / "gone.onnx")


def test_a_file_that_is_no_model_is_named(tmp_path: Any) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(VerificationError, match=r"text\.onnx: onnxruntime cannot load it"):
        ReferenceSession(path)
