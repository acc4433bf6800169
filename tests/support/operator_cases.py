"""Nodes of ONNX with inputs for them: one or more of every operator that training supports."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class OperatorCase:
    """A node and its inputs.

    Attributes:
        label: For the test's name.
        op_type: Of ONNX's own domain.
        inputs: None for one that is left out.
        known: Places of inputs that follow from sizes and constants.
        attributes: By name.
        opset: The file's.
        num_outputs: Of the node.
        is_smooth: Whether it has a gradient that finite differences find.
    """

    label: str
    op_type: str
    inputs: tuple[NDArray[Any] | None, ...]
    known: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 20
    num_outputs: int = 1
    is_smooth: bool = True

    def model(self) -> onnx.ModelProto:
        """Return a file of that node alone; what is known is in it as a constant."""
        names = ["" if each is None else f"in{place}" for place, each in enumerate(self.inputs)]
        outputs = [f"out{number}" for number in range(self.num_outputs)]
        node = helper.make_node(self.op_type, names, outputs, name="node", **self.attributes)
        given, constants = [], []
        for place, (name, array) in enumerate(zip(names, self.inputs, strict=True)):
            if array is None:
                continue
            if place in self.known:
                constants.append(numpy_helper.from_array(array, name))
            else:
                element = helper.np_dtype_to_tensor_dtype(array.dtype)
                given.append(helper.make_tensor_value_info(name, element, array.shape))
        graph = helper.make_graph(
            [node], "case", given, [onnx.ValueInfoProto(name=name) for name in outputs], constants
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _case(
    op_type: str,
    *inputs: NDArray[Any] | None,
    label: str = "",
    known: tuple[int, ...] = (),
    opset: int = 20,
    makes: int = 1,
    is_smooth: bool = True,
    **attributes: Any,
) -> OperatorCase:
    name = f"{op_type}-{label}" if label else op_type
    return OperatorCase(name, op_type, inputs, known, attributes, opset, makes, is_smooth)


def _numbers(*shape: int, low: float = -2.0, high: float = 2.0) -> NDArray[np.float32]:
    seed = zlib.crc32(repr((shape, low, high)).encode())
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def _other(*shape: int) -> NDArray[np.float32]:
    return _numbers(*shape, low=-1.5, high=1.75)


def _integers(*values: Any, dtype: Any = np.int64) -> NDArray[Any]:
    return np.array(values if len(values) != 1 else values[0], dtype)


def _list(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


_TRUE_AND_FALSE = np.array([[True, False], [False, True]])
_MIXED = np.array([[True, True], [False, False]])
_IMAGE, _MATRIX = _numbers(2, 4, 7, 6), _numbers(3, 4)

_CURVES = {
    "Abs": {},
    "Acos": {"low": -0.9, "high": 0.9},
    "Asin": {"low": -0.9, "high": 0.9},
    "Atan": {},
    "Cos": {},
    "Cosh": {},
    "Elu": {},
    "Erf": {},
    "Exp": {},
    "Gelu": {},
    "HardSwish": {"low": -5.0, "high": 5.0},
    "Identity": {},
    "Log": {"low": 0.2, "high": 3.0},
    "Mish": {},
    "Neg": {},
    "Reciprocal": {"low": 0.3, "high": 2.0},
    "Relu": {},
    "Selu": {},
    "Sigmoid": {},
    "Sin": {},
    "Sinh": {},
    "Softplus": {"low": -9.0, "high": 60.0},
    "Softsign": {},
    "Sqrt": {"low": 0.2, "high": 3.0},
    "Tan": {"low": -1.0, "high": 1.0},
    "Tanh": {},
}

ELEMENTWISE_CASES = [
    *(_case(name, _numbers(3, 5, **limits)) for name, limits in _CURVES.items()),
    *(_case(name, _numbers(3, 5), is_smooth=False) for name in ("Ceil", "Floor", "Sign")),
    _case("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6], np.float32), is_smooth=False),
    *(_case(name, _numbers(2, 3, 4), _other(3, 1)) for name in ("Add", "Mul", "Sub")),
    _case("Div", _numbers(3, 4), _numbers(3, 4, low=0.5)),
    _case("Div", _list(7, -7, 9), _list(2, 2, -4), label="integers", is_smooth=False),
    _case("Pow", _numbers(3, 4, low=0.3), _other(3, 4)),
    _case("Pow", _MATRIX, np.float32([2.0])[0:1], label="square", known=(1,)),
    _case("Pow", _MATRIX, np.float32([3.0])[0:1], label="cube", known=(1,)),
    _case("Mod", _list(7, -7, 9), _list(2, 2, -4), is_smooth=False),
    _case("Mod", _numbers(3, 4), _numbers(4, low=0.5), label="fmod", fmod=1, is_smooth=False),
    *(_case(name, _MATRIX, _other(3, 4), _numbers(4)) for name in ("Max", "Min", "Mean", "Sum")),
    _case("Clip", _MATRIX, np.array(-0.5, np.float32), np.array(0.75, np.float32), known=(1, 2)),
    _case("Clip", _MATRIX, None, np.array(0.75, np.float32), label="above", known=(2,)),
    _case("Clip", _MATRIX, label="attributes", opset=6, min=-0.5, max=0.75),
    _case("Gelu", _numbers(3, 5), label="tanh", approximate="tanh"),
    _case("Celu", _MATRIX, alpha=0.7),
    _case("Elu", _MATRIX, label="alpha", alpha=0.7),
    _case("LeakyRelu", _MATRIX, alpha=0.2),
    _case("PRelu", _MATRIX, _numbers(4, low=0.1)),
    _case("HardSigmoid", _numbers(3, 5, low=-4.0, high=4.0), alpha=0.3),
    _case("ThresholdedRelu", _MATRIX, alpha=0.6),
    _case("Swish", _MATRIX, opset=24),
    _case("Swish", _MATRIX, label="alpha", opset=24, alpha=1.7),
    _case("Where", _numbers(3, 4) > 0, _other(3, 4), _numbers(4)),
    *(
        _case(name, _list(1, 2, 3), _list(3, 2, 1), is_smooth=False)
        for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ),
    *(_case(name, _TRUE_AND_FALSE, _MIXED, is_smooth=False) for name in ("And", "Or", "Xor")),
    _case("Not", _MIXED, is_smooth=False),
    *(
        _case(
            "IsInf",
            np.array([np.inf, -np.inf, np.nan, 1.0], np.float32),
            label=f"{positive}{negative}",
            is_smooth=False,
            detect_positive=positive,
            detect_negative=negative,
        )
        for positive, negative in ((1, 1), (1, 0), (0, 1))
    ),
    _case("IsNaN", np.array([np.inf, np.nan, 1.0], np.float32), is_smooth=False),
]

CONSTANT_CASES = [
    _case("Cast", _MATRIX, to=onnx.TensorProto.DOUBLE),
    _case("Cast", _MATRIX, label="integers", to=onnx.TensorProto.INT32, is_smooth=False),
    _case("CastLike", _list(1, 2), _numbers(2), is_smooth=False),
    _case("Constant", value=numpy_helper.from_array(_MATRIX), is_smooth=False),
    _case("Constant", label="floats", value_floats=[0.5, 2.0], is_smooth=False),
    _case("Constant", label="ints", value_ints=[3, 4], is_smooth=False),
    _case("Constant", label="float", value_float=0.5, is_smooth=False),
    _case("ConstantOfShape", _list(2, 3), known=(0,), is_smooth=False),
    _case(
        "ConstantOfShape",
        _list(2, 3),
        label="value",
        known=(0,),
        is_smooth=False,
        value=numpy_helper.from_array(_list(7)),
    ),
    _case("EyeLike", _MATRIX, is_smooth=False, k=1),
    _case("EyeLike", _MATRIX, label="dtype", is_smooth=False, dtype=onnx.TensorProto.INT64),
    _case(
        "Range",
        *(np.array(each, np.int64) for each in (2, 11, 3)),
        known=(0, 1, 2),
        is_smooth=False,
    ),
]

MOVEMENT_CASES = [
    _case("Concat", _numbers(2, 3), _numbers(2, 2), axis=1),
    _case("Concat", _numbers(2, 3), _numbers(1, 3), label="negative", axis=-2),
    _case("DepthToSpace", _numbers(2, 8, 2, 3), blocksize=2),
    _case("DepthToSpace", _numbers(2, 8, 2, 3), label="crd", blocksize=2, mode="CRD"),
    _case("SpaceToDepth", _numbers(2, 2, 4, 6), blocksize=2),
    _case("Expand", _numbers(3, 1), _list(2, 1, 4), known=(1,)),
    _case("Flatten", _numbers(2, 3, 4), axis=2),
    _case("Flatten", _numbers(2, 3, 4), label="negative", axis=-1),
    _case("Flatten", _numbers(2, 3, 4), label="all", axis=0),
    _case("Pad", _MATRIX, _list(1, 0, 2, 3), known=(1,)),
    _case(
        "Pad",
        _MATRIX,
        _list(1, 2),
        np.array(0.5, np.float32),
        _list(1),
        label="axes",
        known=(1, 2, 3),
    ),
    _case("Pad", _MATRIX, _list(-1, 1, 0, -2), label="negative", known=(1,)),
    *(
        _case("Pad", _IMAGE, _list(0, 0, 1, 2, 0, 0, 2, 1), label=mode, known=(1,), mode=mode)
        for mode in ("reflect", "edge", "wrap")
    ),
    _case(
        "Pad", _numbers(3, 5), _list(1, 1, 1, 2), label="reflect-all", known=(1,), mode="reflect"
    ),
    _case("Reshape", _numbers(2, 3, 4), _list(0, -1), known=(1,)),
    _case(
        "Reshape",
        np.zeros((0, 3), np.float32),
        _list(3, 0),
        label="zero",
        known=(1,),
        allowzero=1,
        is_smooth=False,
    ),
    _case("Shape", _numbers(2, 3, 4), is_smooth=False),
    _case("Shape", _numbers(2, 3, 4), label="part", is_smooth=False, start=1, end=-1),
    _case("Size", _numbers(2, 3, 4), is_smooth=False),
    _case("Slice", _numbers(5, 6), _list(1), _list(4), known=(1, 2)),
    _case(
        "Slice",
        _numbers(5, 6),
        _list(-2, 0),
        _list(9, 6),
        _list(1, 0),
        _list(1, 2),
        label="steps",
        known=(1, 2, 3, 4),
    ),
    _case(
        "Slice",
        _numbers(5, 6),
        _list(4),
        _list(-99),
        _list(-1),
        _list(-2),
        label="back",
        known=(1, 2, 3, 4),
    ),
    _case(
        "Slice",
        _numbers(5, 6),
        _list(4),
        _list(2),
        _list(0),
        label="empty",
        known=(1, 2, 3),
        is_smooth=False,
    ),
    _case("Split", _numbers(2, 6), _list(1, 3, 2), known=(1,), makes=3, axis=1),
    _case("Split", _numbers(2, 7), label="even", makes=3, axis=-1, num_outputs=3),
    _case("Split", _numbers(2, 6), label="old", makes=3, axis=1, opset=13),
    _case("Squeeze", _numbers(1, 3, 1), _list(-1), known=(1,)),
    _case("Squeeze", _numbers(1, 3, 1), label="all"),
    _case("Unsqueeze", _numbers(3, 2), _list(0, -1), known=(1,)),
    _case("Unsqueeze", _numbers(3, 2), label="attribute", opset=11, axes=[1, 3]),
    _case("Tile", _numbers(2, 3), _list(2, 1), known=(1,)),
    _case("Transpose", _numbers(2, 3, 4), perm=[2, 0, 1]),
    _case("Transpose", _numbers(2, 3, 4), label="reverse"),
    _case("Trilu", _numbers(4, 5), np.array(1, np.int64), known=(1,)),
    _case("Trilu", _numbers(4, 5), label="lower", upper=0),
]

INDEXING_CASES = [
    _case("Gather", _numbers(5, 3), _integers([[0, -1], [2, 2]])),
    _case("Gather", _numbers(2, 5, 3), _integers([4, 0]), label="axis", axis=1),
    _case("Gather", _numbers(2, 5, 3), np.array(-2, np.int64), label="one", known=(1,), axis=1),
    _case("Gather", _numbers(2, 5, 3), np.array(3, np.int64), label="unknown", axis=1),
    _case("GatherElements", _numbers(3, 4), _integers([[0, -1], [2, 2], [1, 3]]), axis=1),
    _case("GatherND", _numbers(3, 4, 2), _integers([[0, 1], [-1, 3]])),
    _case(
        "GatherND",
        _numbers(2, 4, 3),
        _integers([[[1], [-1]], [[0], [0]]]),
        label="batch",
        batch_dims=1,
    ),
    _case(
        "OneHot", _integers([1, -1, 0]), np.array([3], np.int64), np.float32([0.5, 2.0]), known=(1,)
    ),
    _case(
        "OneHot",
        _integers([[1, 2]]),
        np.array([3], np.int64),
        np.float32([0, 1]),
        label="axis",
        known=(1,),
        axis=1,
    ),
    _case("ScatterElements", _numbers(3, 4), _integers([[0, -1], [2, 3]]), _other(2, 2), axis=1),
    _case(
        "ScatterElements",
        _numbers(3, 4),
        _integers([[0, 0], [2, 1]]),
        _other(2, 2),
        label="add",
        axis=0,
        reduction="add",
    ),
    _case("ScatterND", _numbers(4, 3), _integers([[0], [-1]]), _other(2, 3)),
    _case(
        "ScatterND",
        _numbers(4, 3),
        _integers([[0], [0]]),
        _other(2, 3),
        label="add",
        reduction="add",
    ),
]

_POSITIVE = _numbers(2, 3, 4, low=0.2)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

REDUCTION_CASES = [
    *(_case(name, _POSITIVE, _list(0, -1), known=(1,)) for name in _REDUCTIONS),
    *(_case(name, _POSITIVE, label="all", keepdims=0) for name in _REDUCTIONS),
    _case("ReduceSum", _POSITIVE, label="nothing", noop_with_empty_axes=1),
    _case("ReduceMean", _POSITIVE, label="attribute", opset=17, axes=[1], keepdims=0),
    _case("ReduceSum", _list(1, 2, 3), label="integers", is_smooth=False),
    *(_case(name, _numbers(3, 4), is_smooth=False, axis=1) for name in ("ArgMax", "ArgMin")),
    _case("ArgMax", _numbers(3, 4), label="flat", is_smooth=False, axis=-1, keepdims=0),
    *(_case(name, _numbers(2, 3, 4)) for name in ("Softmax", "LogSoftmax")),
    _case("Softmax", _numbers(2, 3, 4), label="axis", axis=1),
    _case("Softmax", _numbers(2, 3, 4), label="old", opset=11, axis=1),
    _case("CumSum", _numbers(3, 4), np.array(1, np.int64), known=(1,)),
    _case(
        "CumSum",
        _numbers(3, 4),
        np.array(0, np.int64),
        label="back",
        known=(1,),
        reverse=1,
        exclusive=1,
    ),
    _case("TopK", _numbers(3, 6), _list(2), known=(1,), makes=2, axis=1),
    _case("TopK", _numbers(3, 6), _list(2), label="least", known=(1,), makes=2, axis=0, largest=0),
]

PRODUCT_CASES = [
    _case("MatMul", _numbers(2, 3, 4), _numbers(4, 5)),
    _case("MatMul", _numbers(2, 1, 3, 4), _numbers(3, 4, 2), label="batch"),
    _case("Gemm", _numbers(3, 4), _numbers(4, 5), _numbers(5)),
    _case("Gemm", _numbers(3, 4), _numbers(4, 5), _numbers(3, 1), label="column"),
    _case(
        "Gemm",
        _numbers(4, 3),
        _numbers(5, 4),
        _numbers(3, 5),
        label="turned",
        transA=1,
        transB=1,
        alpha=0.5,
        beta=2.0,
    ),
    _case("Gemm", _numbers(3, 4), _numbers(5, 4), _numbers(5), label="linear", transB=1),
    _case("Gemm", _numbers(3, 4), _numbers(5, 4), label="plain", transB=1, alpha=0.5),
    _case("Einsum", _numbers(2, 3, 4), _numbers(2, 5, 4), equation="bik,bjk->bij"),
]

NORMALIZATION_CASES = [
    _case(
        "BatchNormalization",
        _IMAGE,
        _numbers(4),
        _other(4),
        _numbers(4, high=1.0),
        _numbers(4, low=0.5),
    ),
    _case("LayerNormalization", _numbers(2, 3, 5), _numbers(5), _other(5)),
    _case(
        "LayerNormalization", _numbers(2, 3, 5), _numbers(3, 5), label="axis", axis=1, epsilon=0.1
    ),
    _case("LayerNormalization", _numbers(2, 3, 5), _numbers(1), _other(5), label="broadcast"),
    _case("RMSNormalization", _numbers(2, 3, 5), _numbers(5), opset=23),
    _case("RMSNormalization", _numbers(2, 3, 5), _numbers(1), label="broadcast", opset=23),
    _case("InstanceNormalization", _IMAGE, _numbers(4), _other(4), epsilon=0.01),
    _case("GroupNormalization", _IMAGE, _numbers(4), _other(4), opset=21, num_groups=2),
    _case(
        "GroupNormalization", _IMAGE, _numbers(2), _other(2), label="old", opset=18, num_groups=2
    ),
    _case("LpNormalization", _numbers(3, 4), axis=1),
    _case("LpNormalization", _numbers(3, 4), label="one", axis=0, p=1),
    _case("Dropout", _numbers(3, 4), np.array(0.5, np.float32), known=(1,)),
]

_SQUARE = {"kernel_shape": [3, 2]}

WINDOW_CASES = [
    _case("Conv", _IMAGE, _numbers(6, 4, 3, 2), _numbers(6), strides=[2, 1], pads=[1, 0, 1, 0]),
    _case("Conv", _IMAGE, _numbers(4, 1, 3, 3), label="depthwise", group=4, dilations=[2, 1]),
    _case("Conv", _IMAGE, _numbers(2, 4, 3, 2), label="uneven", pads=[1, 0, 0, 1]),
    *(
        _case("Conv", _IMAGE, _numbers(2, 4, 3, 2), label=auto, auto_pad=auto, strides=[2, 2])
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    _case("Conv", _numbers(2, 3, 9), _numbers(4, 3, 3), label="1d", pads=[1, 1]),
    _case("Conv", _numbers(1, 2, 4, 4, 3), _numbers(3, 2, 2, 2, 2), label="3d"),
    _case(
        "ConvTranspose",
        _numbers(2, 3, 4, 5),
        _numbers(3, 2, 3, 3),
        _numbers(2),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 0],
    ),
    _case(
        "ConvTranspose",
        _numbers(2, 3, 4, 5),
        _numbers(3, 2, 3, 3),
        label="uneven",
        pads=[1, 0, 0, 1],
    ),
    _case("MaxPool", _IMAGE, **_SQUARE, strides=[2, 2], pads=[1, 0, 1, 1]),
    _case("MaxPool", _IMAGE, **_SQUARE, label="ceil", strides=[2, 2], ceil_mode=1),
    _case(
        "MaxPool", _IMAGE, kernel_shape=[2, 2], label="wide", pads=[1, 1, 1, 1], dilations=[2, 2]
    ),
    _case("MaxPool", _IMAGE, **_SQUARE, label="same", auto_pad="SAME_UPPER"),
    _case("AveragePool", _IMAGE, **_SQUARE, strides=[2, 2], pads=[1, 1, 1, 1]),
    _case(
        "AveragePool", _IMAGE, **_SQUARE, label="counted", pads=[1, 0, 1, 1], count_include_pad=1
    ),
    _case("AveragePool", _IMAGE, **_SQUARE, label="uneven", pads=[1, 0, 0, 1]),
    _case("AveragePool", _IMAGE, **_SQUARE, label="ceil", strides=[2, 3], ceil_mode=1),
    _case("GlobalAveragePool", _IMAGE),
    _case("GlobalMaxPool", _IMAGE),
]

OPERATOR_CASES = [
    *ELEMENTWISE_CASES,
    *CONSTANT_CASES,
    *MOVEMENT_CASES,
    *INDEXING_CASES,
    *REDUCTION_CASES,
    *PRODUCT_CASES,
    *NORMALIZATION_CASES,
    *WINDOW_CASES,
]
