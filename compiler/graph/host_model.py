"""A host region as bytes, with its larger numbers taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hocket.compiler.graph.regions import HostRegion

WEIGHTS_LOCATION = "weights"
"""What the ONNX names as the file of its weights; there is none, whoever loads it gives them."""

_SEPARABLE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})


def serialize_host_region(region: HostRegion) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return a host region's ONNX and the weights it names but does not hold.

    Floating-point initializers of more than one element are weights: kept apart, they are stored
    once however many regions use them, and can be changed without touching the model. Scalars and
    integers (shapes, axes, epsilons) stay, so that onnxruntime can fold them.

    The region's model is not changed.
    """
    model = region.model.clone()
    weights: dict[str, NDArray[Any]] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _SEPARABLE or tensor.size <= 1:
            continue
        array: np.ndarray[Any, Any] = tensor.numpy()
        weights[name] = array
        value.const_value = ir.ExternalTensor(
            location=WEIGHTS_LOCATION,
            offset=0,
            length=array.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(array.shape),
            name=name,
        )
    return ir.to_proto(model).SerializeToString(), weights
