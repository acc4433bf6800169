"""Operators that make tensors, or another type of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import torch

from hocket.fl.backends.onnx_ops.node import Operator, plain

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Compute, Site

TORCH_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}
"""Types of elements by ONNX's numbers."""


def _dtype(site: Site, number: int) -> torch.dtype:
    if number not in TORCH_DTYPES:
        site.refuse(f"torch has no elements of ONNX's type {number}")
    return TORCH_DTYPES[number]


def _constant(site: Site) -> Compute:
    attributes = site.node.attributes
    value: Any
    if "value" in attributes:
        value = attributes["value"]
    elif "value_float" in attributes or "value_floats" in attributes:
        found = attributes.get("value_float", attributes.get("value_floats"))
        value = torch.tensor(found, dtype=torch.float32)
    elif "value_int" in attributes or "value_ints" in attributes:
        found = attributes.get("value_int", attributes.get("value_ints"))
        value = torch.tensor(found, dtype=torch.int64)
    else:
        site.refuse(f"a constant of {sorted(attributes)} is not supported")
    return lambda: value


def _filled(site: Site) -> Compute:
    shape = site.integers(0) or []
    value = site.get("value")
    filling = torch.zeros(1) if value is None else value
    return lambda _shape: filling.reshape(()).expand(shape).clone()


def _range(start: torch.Tensor, stop: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def _make_range(site: Site) -> Compute:
    for index in range(3):
        site.value(index)
    return _range


def _cast(site: Site) -> Compute:
    dtype = _dtype(site, site.get("to"))
    return lambda x: x.to(dtype)


def _identity_like(site: Site) -> Compute:
    number, diagonal = site.get("dtype"), site.get("k", 0)
    dtype = None if number is None else _dtype(site, number)

    def compute(x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape
        places = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
        is_there: torch.Tensor = places == diagonal
        return is_there.to(dtype or x.dtype)

    return compute


CONSTANTS: dict[str, Operator] = {
    "Cast": _cast,
    "CastLike": plain(lambda x, like: x.to(like.dtype)),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "EyeLike": _identity_like,
    "Range": _make_range,
}
"""Operators by their names in ONNX."""
