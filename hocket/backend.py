"""Hocket as an ONNX backend: the four functions by which ONNX's own tests and tools call one.

import hocket.backend

representation = hocket.backend.prepare(model)
(output,) = representation.run([query, key, value])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.module import CompiledModule


class HocketRepresentation(BackendRep):
    """A model that is ready to run: compiled at once, or as soon as its feeds tell its dimensions.

    Args:
        model: The model.
        target: The machine to compile for.
    """

    def __init__(self, model: onnx.ModelProto, target: str = "host") -> None:
        super().__init__()
        self._model = model
        self._target = target
        self._modules: dict[tuple[tuple[str, int], ...], CompiledModule] = {}
        initialized = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [value for value in model.graph.input if value.name not in initialized]
        if not any(_open_dims(value) for value in self._inputs):
            self.compiled({})

    def compiled(self, dims: dict[str, int]) -> CompiledModule:
        """Return the module for these dimensions, compiled the first time they are asked for."""
        from hocket.module import compile as compile_module

        key = tuple(sorted(dims.items()))
        if key not in self._modules:
            self._modules[key] = compile_module(self._model, self._target, dims, num_threads=1)
        return self._modules[key]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:  # noqa: ARG002 (the convention)
        """Return the outputs, in the model's order, as a tuple that also has their names.

        Args:
            inputs: Arrays or scalars: a sequence in the model's order, a dict by name, or the one
                input itself. None stands for an optional input that is left out.
            kwargs: Taken for the convention's sake.

        Raises:
            ValueError: There are more inputs than the model has.
            FeedError: The inputs do not match the model.
        """
        feeds = self._name_inputs(inputs)
        dims: dict[str, int] = {}
        for value in self._inputs:
            for axis, name in _open_dims(value):
                if value.name in feeds:
                    dims[name] = int(np.shape(feeds[value.name])[axis])
        session = self.compiled(dims).session(intra_op_num_threads=1)
        specs = {spec.name: spec for spec in session.get_inputs()}
        arrays = {
            name: _to_array(array, specs[name].dtype.value) if name in specs else array
            for name, array in feeds.items()
        }
        names = [spec.name for spec in session.get_outputs()]
        return namedtupledict("Outputs", names)(*session.run(names, arrays))

    def _name_inputs(self, inputs: Any) -> dict[str, Any]:
        names = [value.name for value in self._inputs]
        if isinstance(inputs, dict):
            return {name: value for name, value in inputs.items() if value is not None}
        if not isinstance(inputs, list | tuple):
            inputs = (inputs,)
        if len(inputs) > len(names):
            raise ValueError(f"the model has {len(names)} inputs, {names}; got {len(inputs)}")
        return {
            name: value for name, value in zip(names, inputs, strict=False) if value is not None
        }


class HocketBackend(Backend):
    """The class form of the convention."""

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any
    ) -> HocketRepresentation:
        """Check a model and make it ready to run.

        Args:
            model: The model.
            device: ``CPU`` is the only one.
            kwargs: ``target`` names the machine to compile for.

        Raises:
            ModelError: The model cannot be compiled.
            ValueError: The device is another.
        """
        if not cls.supports_device(device):
            raise ValueError(f"device {device!r} is not supported; the only one is 'CPU'")
        onnx.checker.check_model(model)
        return HocketRepresentation(model, kwargs.get("target", "host"))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node, as a model of its own.

        Args:
            node: The node; its inputs that are the empty string are left out.
            inputs: Arrays or scalars, in the order of its named inputs, or a dict by name.
            device: ``CPU`` is the only one.
            outputs_info: Element type and shape of each output; found by inference without it.
            kwargs: ``opset_imports`` maps domains to versions; the newest by default.

        Raises:
            ModelError: The node cannot be compiled.
            ValueError: The device is another.
        """
        names = [name for name in node.input if name]
        if not isinstance(inputs, dict):
            values = inputs if isinstance(inputs, list | tuple) else (inputs,)
            inputs = dict(zip(names, (v for v in values if v is not None), strict=True))
        feeds = {name: np.asarray(value) for name, value in inputs.items()}
        model = _model_of_node(node, feeds, outputs_info, kwargs.pop("opset_imports", None))
        return cls.run_model(model, feeds, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether the device, as in ``CPU`` or ``CPU:0``, is one we run on."""
        return device.partition(":")[0] == "CPU"


def _model_of_node(
    node: onnx.NodeProto,
    feeds: Mapping[str, NDArray[Any]],
    outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None,
    opset_imports: Mapping[str, int] | None,
) -> onnx.ModelProto:
    helper = onnx.helper
    versions = dict(opset_imports or {node.domain: onnx.defs.onnx_opset_version()})
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    names = [name for name in node.output if name]
    if outputs_info is None:
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
    else:
        outputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
            )
            for name, (dtype, shape) in zip(names, outputs_info, strict=True)
        ]
    graph = helper.make_graph([node], "node", inputs, outputs)
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets)
    # The newest IR version of onnx may be too new for onnxruntime; this one has all we need.
    model.ir_version = min(model.ir_version, 10)
    if outputs_info is None:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return model


def _open_dims(value: onnx.ValueInfoProto) -> list[tuple[int, str]]:
    """Return each axis without a size, with the label by which the compiler takes its size."""
    dims = value.type.tensor_type.shape.dim
    return [
        (axis, dim.dim_param or f"{value.name}:{axis}")
        for axis, dim in enumerate(dims)
        if not dim.HasField("dim_value")
    ]


def _to_array(value: Any, dtype: str) -> NDArray[Any]:
    """Make an array of a scalar or a list; an array keeps its type, so that a wrong one is seen."""
    return value if isinstance(value, np.ndarray) else np.asarray(value, dtype=dtype)


prepare = HocketBackend.prepare
run_model = HocketBackend.run_model
run_node = HocketBackend.run_node
supports_device = HocketBackend.supports_device
