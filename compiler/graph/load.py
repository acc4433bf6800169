"""Reading an ONNX model: from a file, bytes or memory, checked, with every dimension bound."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx_ir.passes.common import CheckerPass, RemoveInitializersFromInputsPass

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.dimensions import bind_dimensions, tie_dimensions
from hocket.compiler.graph.values import DTYPES, describe_node, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
"""What a model can be read from."""

OLDEST_OPSET = 7
"""Before it, operators broadcast by attribute; onnxruntime does not run those either."""

# Operators of these domains are known to onnxruntime, which runs the host regions.
_HOST_DOMAINS = ("com.microsoft", "com.ms", "ai.onnx")

_SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
    (0, b"PK\x03\x04", "a zip archive, such as a torch checkpoint; export it to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an onnxruntime format model; give the .onnx file it was made from"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\x89HDF", "an HDF5 file"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A model that was read and checked, with every dimension of its inputs bound.

    Attributes:
        model: Ours to change. The graph has no shapes of intermediate values yet.
        dims: The dimensions that were open, with their sizes.
        source: What messages call the model: its path, or where it came from.
        declared_outputs: Shapes that the file gives for outputs, which hold where inference finds
            none.
    """

    model: ir.Model
    dims: dict[str, int]
    source: str
    declared_outputs: dict[str, ir.Shape]


def load_model(
    source: ModelSource, dims: Mapping[str, int | str] | None = None, *, leaves_open: bool = False
) -> LoadedModel:
    """Read a model, check it, and bind its dimensions.

    Args:
        source: A path, the bytes of a file, or a model in memory, which is left as it is.
        dims: Size of each open dimension of the inputs, by name (``batch_size``) or by place
            (``input_ids:0``); or text, the sum of others that it is (``past + new``).
        leaves_open: Whether dimensions that are not given stay open, instead of being asked for.

    Returns:
        A model of its own.

    Raises:
        ModelError: There is no such file, or it is no ONNX model, or not one that can be run.
        DimensionError: A dimension is missing, unknown, or bound to an unusable size.
    """
    model, name = _read(source)
    _check_signature(model.graph, name)
    sums = {label: text for label, text in (dims or {}).items() if isinstance(text, str)}
    tie_dimensions(model, sums, name)
    sizes = {label: size for label, size in (dims or {}).items() if not isinstance(size, str)}
    bound = bind_dimensions(model, sizes, name, leaves_open=leaves_open)
    return LoadedModel(model, bound, name, _forget_shapes(model))


def bind_copy(
    loaded: LoadedModel, dims: Mapping[str, int], *, leaves_open: bool = False
) -> LoadedModel:
    """Return a copy of a loaded model with dimensions bound that were left open.

    Args:
        loaded: Left as it is.
        dims, leaves_open: As for ``load_model``.

    Raises:
        DimensionError: As for ``load_model``.
    """
    model = _copy(loaded.model)
    for value in model.graph.outputs:
        value.shape = loaded.declared_outputs.get(name_of(value), value.shape)
    bound = bind_dimensions(model, dims, loaded.source, leaves_open=leaves_open)
    return LoadedModel(model, loaded.dims | bound, loaded.source, _forget_shapes(model))


def _read(source: ModelSource) -> tuple[ir.Model, str]:
    if isinstance(source, ir.Model):
        model, name = _copy(source), _memory_name(source.graph.name)
        _check_opsets(dict(model.opset_imports), name)
        _run_checker(model, name)
    elif isinstance(source, onnx.ModelProto):
        name = _memory_name(source.graph.name)
        copy = onnx.ModelProto()
        copy.CopyFrom(source)  # tensors are read in place, and renamed with their values
        model = _from_proto(copy, None, name, folder=None)
    elif isinstance(source, bytes | bytearray | memoryview):
        name = f"model of {len(source)} bytes"
        data = bytes(source)
        model = _from_proto(_parse(data, name), data, name, folder=None)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name = str(path)
        data = _read_file(path)
        model = _from_proto(_parse(data, name), data, name, folder=path.parent)
    else:
        raise TypeError(
            "a model is a path, bytes, onnx.ModelProto or onnx_ir.Model, "
            f"got {type(source).__name__}"
        )
    RemoveInitializersFromInputsPass()(model)
    _reject_unknown_domains(model, name)
    _reject_complex(model, name)
    return model, name


def _copy(source: ir.Model) -> ir.Model:
    """Copy a model, but not the numbers of its weights."""
    model = source.clone()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        attribute = node.attributes.get("value")
        if attribute is None or attribute.type != ir.AttributeType.TENSOR:
            continue
        tensor = attribute.as_tensor()
        if tensor.dtype != ir.DataType.STRING:
            own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
            node.attributes["value"] = ir.AttrTensor("value", own)
    return model


def _memory_name(graph_name: str | None) -> str:
    return f"model {graph_name!r}" if graph_name else "model in memory"


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        folder = path.parent
        names = [item.name for item in folder.glob("*.onnx")] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {str(folder / close[0])!r}?" if close else ""
        raise ModelError(f"{path}: there is no such file{hint}") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path}: this is a folder; give the .onnx file in it") from error
    except OSError as error:
        raise ModelError(f"{path}: the file cannot be read: {error.strerror}") from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's own, which onnx does not export
        for offset, magic, what in _SIGNATURES:
            if data[offset : offset + len(magic)] == magic:
                raise ModelError(f"{name}: not an ONNX model but {what}") from error
        # Every ONNX writer puts ir_version, field 1 as a varint, first: one byte 8, one small.
        if data[:1] == b"\x08" and data[1:2] < b"\x40":
            raise ModelError(
                f"{name}: the ONNX model is damaged or cut short, its {len(data)} bytes do not "
                "parse; copy or export it again"
            ) from error
        raise ModelError(f"{name}: not an ONNX model, its bytes do not parse as one") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(
            f"{name}: not an ONNX model, or one cut short: {len(data)} bytes without a graph"
        )
    _check_text(proto.graph, name)
    return proto


def _check_text(graph: onnx.GraphProto, name: str) -> None:
    """Refuse names that are no text: a reader hands such bytes on as they are."""
    values = (*graph.input, *graph.output, *graph.value_info)
    names: list[object] = [value.name for value in values]
    names += [tensor.name for tensor in graph.initializer]
    for value in values:
        names += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for attribute in node.attribute:
            names.append(attribute.name)
            for inner in (attribute.g, *attribute.graphs):
                _check_text(inner, name)
    for found in names:
        if not isinstance(found, str):
            raise ModelError(
                f"{name}: the ONNX model is damaged, it has the name {found!r}, which is no text; "
                "copy or export it again"
            )


def _from_proto(
    proto: onnx.ModelProto, data: bytes | None, name: str, folder: Path | None
) -> ir.Model:
    _check_opsets({item.domain: item.version for item in proto.opset_import}, name)
    has_external = _check_external_data(proto, name, folder)
    try:
        # With weights outside the file, the checker must know where the file is; with the bytes at
        # hand, it need not write them once more.
        onnx.checker.check_model(name if has_external and folder else data or proto)
        model = ir.from_proto(proto)
    except (onnx.checker.ValidationError, ir.serde.SerdeError, ValueError) as error:
        raise ModelError(f"{name}: not a valid ONNX model: {_one_line(error)}") from error
    if has_external and folder is not None:
        ir.external_data.set_base_dir(model.graph, folder)
    return model


def _run_checker(model: ir.Model, name: str) -> None:
    try:
        CheckerPass()(model)
    except (onnx.checker.ValidationError, ir.serde.SerdeError, ValueError) as error:
        raise ModelError(f"{name}: not a valid ONNX model: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).replace("==>", "").split())


def _check_opsets(opsets: dict[str, int], name: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = opsets.get("", opsets.get("ai.onnx"))
    if version is not None and not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{name}: opset {version} is not supported, only {OLDEST_OPSET} to {newest}; "
            f"export it again, or convert it with onnx.version_converter.convert_version"
        )
    newest_ml = onnx.defs.onnx_ml_opset_version()
    if opsets.get("ai.onnx.ml", 1) > newest_ml:
        raise ModelError(
            f"{name}: version {opsets['ai.onnx.ml']} of domain 'ai.onnx.ml' is not supported, "
            f"only up to {newest_ml}"
        )


def _check_external_data(proto: onnx.ModelProto, name: str, folder: Path | None) -> bool:
    """Check that weights kept outside the file are all there; return whether there are any."""
    tensors = [tensor for tensor in proto.graph.initializer if uses_external_data(tensor)]
    for tensor in tensors:
        if folder is None:
            raise ModelError(
                f"{name}: the weight {tensor.name!r} is stored outside the model; give the path "
                "of the .onnx file, not its content"
            )
        info = ExternalDataInfo(tensor)
        path = folder / info.location
        try:
            size, links = path.stat().st_size, path.stat().st_nlink
        except OSError as error:
            raise ModelError(
                f"{name}: the weight {tensor.name!r} is stored in {str(path)!r}, which cannot be "
                "read; put that file beside the model"
            ) from error
        if path.is_symlink() or links > 1:
            raise ModelError(
                f"{name}: the weights in {str(path)!r} are a link to another file, which onnx "
                "refuses for safety; put a copy of the file there"
            )
        end = (info.offset or 0) + (info.length or 0)
        if size < end:
            raise ModelError(
                f"{name}: the weight {tensor.name!r} ends at byte {end} of {str(path)!r}, which "
                f"has {size} bytes; the file is cut short, copy it again"
            )
    return bool(tensors)


def _reject_unknown_domains(model: ir.Model, name: str) -> None:
    known = {domain for domain, _, _ in model.functions} | {""}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in known and not node.domain.startswith(_HOST_DOMAINS):
            raise ModelError(
                f"{name}: node {describe_node(node)}: neither ONNX nor onnxruntime has operators "
                f"of domain {node.domain!r}; give the model with it written as a function"
            )


_COMPLEX = (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)


def _reject_complex(model: ir.Model, name: str) -> None:
    """Refuse complex numbers that something computes with, which onnxruntime does not have."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for node in (node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph)):
        found = next((dtype for dtype in _COMPLEX if dtype in _types_named(node)), None)
        if found is not None:
            made = "" if node.name else f" of {name_of(node.outputs[0])!r}"
            raise ModelError(
                f"{name}: node {describe_node(node)}{made} computes with {found.name.lower()}, for "
                "which onnxruntime has no operators; export the model with real and imaginary "
                "parts along an axis of their own"
            )


def _types_named(node: ir.Node) -> set[int]:
    """Return the element types that a node's inputs, outputs and attributes are known to have."""
    found = {int(value.dtype) for value in (*node.inputs, *node.outputs) if value and value.dtype}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            found.add(int(attribute.as_tensor().dtype))
        elif attribute.name in ("to", "dtype") and attribute.type == ir.AttributeType.INT:
            found.add(attribute.as_int())
    return found


def _check_signature(graph: ir.Graph, name: str) -> None:
    if not graph.outputs:
        raise ModelError(f"{name}: the model has no outputs, so there is nothing to compute")
    for value in graph.inputs:
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            raise ModelError(f"{name}: input {value.name!r} is no tensor but {value.type}")
        if value.dtype not in DTYPES:
            raise ModelError(
                f"{name}: input {value.name!r} has element type {value.dtype}, which is not "
                "supported; cast it before the model"
            )
        if value.shape is None:
            raise ModelError(
                f"{name}: input {value.name!r} has no rank; export the model with a shape for it"
            )


def _forget_shapes(model: ir.Model) -> dict[str, ir.Shape]:
    """Drop shapes that can be inferred, and return the declared ones of the outputs.

    Exporters write shapes of the example they traced; inference believes them over its own result.
    """
    declared = {
        name_of(value): value.shape for value in model.graph.outputs if value.shape is not None
    }
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "":
            for value in node.outputs:
                value.shape = None
    return declared
