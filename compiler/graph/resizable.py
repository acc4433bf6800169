"""A model with open dimensions, cut into regions that run at any size.

The model is recognised several times with different sizes bound. Where that comes to the same, the
attention found goes into the graph as it was before sizes were bound, of which the host regions are
cut; how the sizes of tensors and problems follow from the dimensions is read off the samples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.attention_node import is_attention_node, problem_from_node
from hocket.compiler.graph.contrib.open_sizes import write_out_open
from hocket.compiler.graph.dimensions import unknown_dimension
from hocket.compiler.graph.load import bind_copy, load_model
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_for_host, prepare_model, prepare_unbound
from hocket.compiler.graph.recognize import recognize_attention
from hocket.compiler.graph.recognize.open_causality import open_position_finder
from hocket.compiler.graph.regions import AttentionRegion, HostRegion
from hocket.compiler.graph.samples import choose_samples, fit_size
from hocket.compiler.graph.size_nodes import SizeEmitter
from hocket.compiler.graph.unbound import Recognized, carry_over, replace_shapes
from hocket.compiler.graph.values import name_of, static_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.compiler.graph.load import LoadedModel, ModelSource
    from hocket.compiler.graph.recognize.causality import PositionFinder
    from hocket.compiler.graph.recognize.rules import RecognitionResult
    from hocket.compiler.graph.regions import PartitionedModel
    from hocket.compiler.graph.samples import Span
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.sizes import Size

_SIZES = ("batch", "query_length", "kv_length")


@dataclass(frozen=True)
class ProblemSizes:
    """How the sizes of an attention problem follow from open dimensions.

    Attributes:
        fields: By name: batch, query_length, kv_length and query_offset.
        mask_shape: Of its mask; None without one.
    """

    fields: dict[str, Size]
    mask_shape: tuple[Size, ...] | None


@dataclass(frozen=True)
class ResizableModel:
    """A model cut into regions at some sizes, and how they follow from its open dimensions.

    Attributes:
        model: The cut, complete for ``model.dims``; its host regions take tensors of any size.
        dims: The open dimensions with their spans.
        values: The shape of each value at the border of a region, by name.
        problems: The sizes of each attention region, by its name.
    """

    model: PartitionedModel
    dims: dict[str, Span]
    values: dict[str, tuple[Size, ...]]
    problems: dict[str, ProblemSizes]


@dataclass(frozen=True)
class _Bound:
    """A model with sizes bound.

    Attributes:
        dims: What was bound.
        model: Prepared for recognition.
        shapes: Sizes of every value, by name.
    """

    dims: dict[str, int]
    model: ir.Model
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Sample:
    """A model recognised with sizes bound.

    Attributes:
        dims: What was bound.
        recognized: The graph after recognition.
        result: What was taken and what was not.
    """

    dims: dict[str, int]
    recognized: Recognized
    result: RecognitionResult


def cut_resizable(
    source: ModelSource,
    dims: Mapping[str, int | str],
    spans: Mapping[str, Span],
    accept: Callable[[AttentionProblem], str | None],
    *,
    keeps_quantization: bool = False,
) -> tuple[str, ResizableModel]:
    """Cut a model some of whose dimensions stay open; return what messages call it, and the cut.

    Args:
        source: As for ``load_model``.
        dims: Sizes of the other dimensions, or what sum of others they are.
        spans: Least and largest size of each dimension that stays open.
        accept, keeps_quantization: As for ``recognize_attention``.

    Raises:
        ModelError: The model cannot be read or compiled, or not for any size; the message says why.
    """
    sums = {label: text for label, text in dims.items() if isinstance(text, str)}
    loaded = load_model(source, sums, leaves_open=True)
    sizes_given = {label: size for label, size in dims.items() if not isinstance(size, str)}
    name = loaded.source
    places = _places_of(bind_copy(loaded, sizes_given, leaves_open=True).model.graph, spans, name)
    # A first axis is the batch, most often.
    singles = frozenset(dim for dim, (_, axis) in places.items() if axis == 0)
    chosen = choose_samples(spans, singles)
    loaded = write_out_open(loaded, chosen, sizes_given, places)
    models = [_bind(bind_copy(loaded, {**sizes_given, **sample})) for sample in chosen]
    unbound = prepare_unbound(bind_copy(loaded, sizes_given, leaves_open=True))
    seen = [_completed(unbound, bound.shapes) for bound in models]
    fitted = _fit_all(seen, chosen)
    sizes = SizeEmitter(unbound.graph, FreshNames(unbound.graph), places)
    replace_shapes(unbound.graph, fitted, sizes)
    find = open_position_finder(unbound.graph, fitted, spans)
    samples = [
        _recognize(bound, accept, find, keeps_quantization=keeps_quantization) for bound in models
    ]
    _check_same(samples, name)
    first = samples[0]
    rest = [sample.recognized for sample in samples[1:]]
    carry_over(first.recognized, rest, chosen, unbound.graph, sizes, name)
    if first.result.taken:
        unbound.opset_imports.update(first.recognized.model.opset_imports)
    ir.passes.common.RemoveUnusedNodesPass()(unbound)
    prepare_for_host(unbound, name, folds=False)
    seen = [
        _completed(unbound, shapes | _shapes_of(sample.recognized.model.graph))
        for shapes, sample in zip(seen, samples, strict=True)
    ]
    _annotate(unbound.graph, seen[0])
    cut = partition(unbound, first.result.not_taken, first.dims)
    cut = _with_open_regions(cut)
    values, problems = _read_sizes(cut, samples, chosen, _fit_all(seen, chosen), name)
    return name, ResizableModel(cut, dict(spans), values, problems)


def _bind(loaded: LoadedModel) -> _Bound:
    model = prepare_model(loaded, is_sample=True)
    return _Bound(loaded.dims, model, _shapes_of(model.graph))


def _recognize(
    bound: _Bound,
    accept: Callable[[AttentionProblem], str | None],
    find: PositionFinder,
    *,
    keeps_quantization: bool,
) -> _Sample:
    model = bound.model
    before = set(model.graph)
    result = recognize_attention(model, accept, keeps_quantization=keeps_quantization, find=find)
    inserted = tuple(
        node for node in model.graph if node not in before and not is_attention_node(node)
    )
    return _Sample(bound.dims, Recognized(model, inserted), result)


def _shapes_of(graph: ir.Graph) -> dict[str, tuple[int, ...]]:
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    return {name_of(v): shape for v in values if (shape := static_shape(v)) is not None}


def _check_same(samples: Sequence[_Sample], source: str) -> None:
    first = samples[0].result
    for sample in samples[1:]:
        if (sample.result.taken, sample.result.not_taken) != (first.taken, first.not_taken):
            sizes = ", ".join(f"{name}={size}" for name, size in sample.dims.items())
            raise ModelError(
                f"{source}: with {sizes} other attention is found than with "
                f"{', '.join(f'{n}={s}' for n, s in samples[0].dims.items())}; give each "
                "dimension one size"
            )


def _places_of(
    graph: ir.Graph, spans: Mapping[str, Span], source: str
) -> dict[str, tuple[str, int]]:
    """Return an input and an axis of it for each open dimension."""
    places: dict[str, tuple[str, int]] = {}
    labels: set[str] = set()
    for value in graph.inputs:
        for axis, size in enumerate(value.shape.dims if value.shape is not None else ()):
            key = f"{name_of(value)}:{axis}"
            if isinstance(size, int) and size >= 1:
                continue
            label = size.value if isinstance(size, ir.SymbolicDim) and size.value else key
            labels.add(label)
            for name in (label, key):
                if name in spans:
                    places.setdefault(name, (name_of(value), axis))
    for name in spans:
        if name not in places:
            raise unknown_dimension(name, sorted(labels), source)
    return places


def _fit_all(
    shapes: Sequence[Mapping[str, tuple[int, ...]]], dims: Sequence[Mapping[str, int]]
) -> dict[str, tuple[Size | None, ...]]:
    """Return the formulas of the shapes of all values that every sample knows."""
    fitted: dict[str, tuple[Size | None, ...]] = {}
    for name, first in shapes[0].items():
        seen = [sample.get(name) for sample in shapes]
        if all(shape is not None and len(shape) == len(first) for shape in seen):
            known = [shape for shape in seen if shape is not None]
            fitted[name] = tuple(fit_size(sizes, dims) for sizes in zip(*known, strict=True))
    return fitted


def _completed(
    unbound: ir.Model, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the sizes of a sample with those of values that are only in the unbound graph."""
    model = unbound.clone()
    _annotate(model.graph, shapes)
    ir.passes.common.ShapeInferencePass(strict_mode=False)(model)
    return dict(shapes) | _shapes_of(model.graph)


def _annotate(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give values the sizes of a sample, which the cut wants to know at borders."""
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        shape = shapes.get(name_of(value))
        if shape is not None:
            value.shape = ir.Shape(shape)


def _with_open_regions(cut: PartitionedModel) -> PartitionedModel:
    """Take the sizes out of the host regions' models; ranks stay."""
    regions = []
    for region in cut.regions:
        if isinstance(region, HostRegion):
            graph = region.model.graph
            border = {*graph.inputs, *graph.outputs}
            for value in border:
                rank = 0 if value.shape is None else len(value.shape)
                value.shape = ir.Shape([f"{value.name}:{axis}" for axis in range(rank)])
            for node in ir.traversal.RecursiveGraphIterator(graph):
                for value in node.outputs:
                    if value not in border:
                        value.shape = None
        regions.append(region)
    return dataclasses.replace(cut, regions=tuple(regions))


def _read_sizes(
    cut: PartitionedModel,
    samples: Sequence[_Sample],
    dims: Sequence[Mapping[str, int]],
    fitted: Mapping[str, tuple[Size | None, ...]],
    source: str,
) -> tuple[dict[str, tuple[Size, ...]], dict[str, ProblemSizes]]:
    """Return the formulas of the values at borders, and of the attention problems."""
    values: dict[str, tuple[Size, ...]] = {}
    for name, info in cut.values.items():
        known = tuple(size for size in fitted.get(name, ()) if size is not None)
        if len(known) != len(info.shape):
            raise ModelError(
                f"{source}: the sizes of {name!r} follow from the dimensions by no formula that "
                "is looked for; give each dimension one size"
            )
        values[name] = known
    problems = {}
    nodes = [
        {node.name: node for node in sample.recognized.model.graph if is_attention_node(node)}
        for sample in samples
    ]
    for region in cut.regions:
        if isinstance(region, AttentionRegion):
            found = [problem_from_node(by_name[region.name]) for by_name in nodes]
            problems[region.name] = _fit_problem(region, found, dims, source)
    return values, problems


def _fit_problem(
    region: AttentionRegion,
    found: Sequence[AttentionProblem],
    dims: Sequence[Mapping[str, int]],
    source: str,
) -> ProblemSizes:
    first = found[0]
    failure = ModelError(
        f"{source}: the attention at {region.name!r} is another with other sizes; give each "
        "dimension one size"
    )
    offsets = [problem.rules.query_offset for problem in found]
    fields = {name: fit_size([getattr(each, name) for each in found], dims) for name in _SIZES}
    fields["query_offset"] = fit_size(offsets, dims)
    masks = [problem.mask_shape for problem in found]
    mask_shape: tuple[Size | None, ...] | None = None
    if first.mask_shape is not None:
        if any(shape is None for shape in masks):
            raise failure
        known = [shape for shape in masks if shape is not None]
        mask_shape = tuple(fit_size(sizes, dims) for sizes in zip(*known, strict=True))
    for problem in found[1:]:
        same = dataclasses.replace(
            problem,
            **{name: getattr(first, name) for name in _SIZES},
            mask_shape=first.mask_shape,
            rules=dataclasses.replace(problem.rules, query_offset=first.rules.query_offset),
        )
        if same != first:
            raise failure
    sizes = [*fields.values(), *(mask_shape or ())]
    if any(size is None for size in sizes):
        raise failure
    return ProblemSizes(
        {name: size for name, size in fields.items() if size is not None},
        None if mask_shape is None else tuple(size for size in mask_shape if size is not None),
    )
