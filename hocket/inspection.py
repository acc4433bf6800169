"""What there is to know about a model or a compiled module: its attention, and all that is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.compiler.graph.regions import AttentionRegion, PartitionedModel
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.simulate import Timeline
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.steps import AttentionStep

# What to assume of an open dimension whose size nobody gave: one sequence, of a usual length.
ASSUMED_BATCH = 1
ASSUMED_LENGTH = 128

GANTT_COLUMNS_PER_TASK = 4


@dataclass(frozen=True)
class LayerReport:
    """One attention layer of a compiled module."""

    artifact: Artifact
    step: AttentionStep

    @property
    def name(self) -> str:
        """Name of the node at which it was found."""
        return self.step.name

    @property
    def title(self) -> str:
        """Its sizes and machine in a line, as a picture's title."""
        sizes = self.step.parameters
        return (
            f"attention, {sizes.query_heads} heads of {sizes.head_dim}, {sizes.query_length} "
            f"queries, {sizes.kv_length} keys, on {self.artifact.target.name} "
            f"({self.step.dataflow})"
        )

    @property
    def estimate(self) -> Estimate:
        """What it is predicted to take on the target."""
        return self.step.estimate

    def timeline(self) -> Timeline:
        """Return its program in virtual time.

        Raises:
            ArtifactError: The stored program is not well formed.
        """
        from hocket.hwmodels.simulate import simulate

        return simulate(self.artifact.program(self.step), self.artifact.target)

    def gantt(self, width: int = 72) -> str:
        """Return the beginning of its schedule as text, one line a unit.

        As much of it as fits if a task of the matrix unit takes some columns: with more, the chart
        would no longer show which task runs beside which.
        """
        from hocket.hwmodels.program import Unit
        from hocket.hwmodels.trace import text_gantt

        timeline = self.timeline()
        tasks = timeline.program.schedule.tasks
        ends = sorted(
            span.end
            for task, span in zip(tasks, timeline.spans, strict=True)
            if task.unit is Unit.MATRIX and task.core == 0
        )
        shown = width // GANTT_COLUMNS_PER_TASK
        if shown >= len(ends):
            return text_gantt(timeline, width)
        chart = text_gantt(timeline, width, ends[shown])
        return f"{chart}\n{'':<15}(the whole takes {timeline.cycles:,.0f} cycles)"

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write its schedule in the trace-viewer's JSON form."""
        from pathlib import Path

        from hocket.hwmodels.trace import trace_events

        Path(path).write_text(json.dumps(trace_events(self.timeline())), encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        sizes = _sizes_to_json(self.step.parameters)
        return {
            "name": self.step.name,
            "form": self.step.form,
            **sizes,
            "tiling": self.step.tiling,
            "dataflow": self.step.dataflow,
            "estimate": self.step.estimate.to_json(),
        }


@dataclass(frozen=True)
class ArtifactReport:
    """A compiled module, layer by layer."""

    artifact: Artifact

    @property
    def target(self) -> HardwareModel:
        """The machine it was compiled for."""
        return self.artifact.target

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Its attention layers, in the order in which they run."""
        return tuple(LayerReport(self.artifact, step) for step in self.artifact.attention_steps)

    @property
    def num_host_nodes(self) -> int:
        """ONNX nodes that onnxruntime runs."""
        return sum(step.num_nodes for step in self.artifact.host_steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: the summary, and one object a layer."""
        return {
            "kind": "module",
            "model_name": self.artifact.model_name,
            "producer": self.artifact.producer,
            **self.summary(),
            "attention": [layer.to_json() for layer in self.layers],
            "inputs": [spec.to_json() for spec in self.artifact.signature.inputs],
            "outputs": [spec.to_json() for spec in self.artifact.signature.outputs],
        }

    def summary(self) -> dict[str, Any]:
        """Return a JSON object without the layers."""
        artifact = self.artifact
        return {
            "digest": artifact.digest,
            "target": artifact.target.name,
            "threads": artifact.num_threads,
            "dims": dict(artifact.dims),
            "attention_layers": len(artifact.attention_steps),
            "host_regions": len(artifact.host_steps),
            "host_nodes": self.num_host_nodes,
            "not_taken": [vars(left) for left in artifact.left_to_host],
            "estimate": artifact.estimate.to_json(),
        }


@dataclass(frozen=True)
class ModelReport:
    """An ONNX model, as the compiler cuts it.

    Attributes:
        partitioned: The cut.
        assumes_dims: Whether the sizes of open dimensions were assumed, because none was given.
    """

    partitioned: PartitionedModel
    assumes_dims: bool

    @property
    def attention(self) -> tuple[AttentionRegion, ...]:
        """The attention found, in an order in which it can run."""
        from hocket.compiler.graph.regions import AttentionRegion

        return tuple(
            region for region in self.partitioned.regions if isinstance(region, AttentionRegion)
        )

    @property
    def num_host_regions(self) -> int:
        """Parts that would be left to onnxruntime."""
        return len(self.partitioned.regions) - len(self.attention)

    @property
    def num_host_nodes(self) -> int:
        """ONNX nodes in those parts."""
        return sum(getattr(region, "num_nodes", 0) for region in self.partitioned.regions)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "kind": "model",
            "dims": dict(self.partitioned.dims),
            "assumed_dims": self.assumes_dims,
            "attention_layers": len(self.attention),
            "attention": [
                {"name": region.name, "form": region.form, **_sizes_to_json(region.problem)}
                for region in self.attention
            ],
            "host_regions": self.num_host_regions,
            "host_nodes": self.num_host_nodes,
            "not_taken": [vars(item) for item in self.partitioned.not_taken],
            "inputs": [_value_to_json(value) for value in self.partitioned.inputs],
            "outputs": [_value_to_json(value) for value in self.partitioned.outputs],
        }


def inspect_artifact(artifact: Artifact) -> ArtifactReport:
    """Return what there is to know about a compiled module."""
    return ArtifactReport(artifact)


def inspect_model(path: str | os.PathLike[str], dims: Mapping[str, int]) -> ModelReport:
    """Cut a model as the compiler would, and say what came of it.

    Without any ``dims``, sizes are assumed for open dimensions.

    Raises:
        ModelError: The model cannot be read, or some but not all open dimensions have a size.
    """
    from hocket.compiler.driver import cut_model
    from hocket.compiler.errors import DimensionError, ModelError

    try:
        return ModelReport(cut_model(path, dims)[1], assumes_dims=False)
    except DimensionError:
        if dims:
            raise
        try:
            assumed = assume_dims(path)
            return ModelReport(cut_model(path, assumed)[1], assumes_dims=True)
        except ModelError:
            # What was assumed does not fit this model, so ask for sizes, as the first error does.
            pass
        raise


def assume_dims(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return a usual size for each open dimension of the inputs: 1 on first axes, else 128."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    initialized = {tensor.name for tensor in model.graph.initializer}
    sizes: dict[str, int] = {}
    for value in model.graph.input:
        if value.name in initialized:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 1:
                label = dim.dim_param or f"{value.name}:{axis}"
                sizes.setdefault(label, ASSUMED_LENGTH if axis else ASSUMED_BATCH)
    return sizes


def _sizes_to_json(sizes: AttentionProblem | AttentionParameters) -> dict[str, Any]:
    return {
        "batch": sizes.batch,
        "query_heads": sizes.query_heads,
        "kv_heads": sizes.kv_heads,
        "query_length": sizes.query_length,
        "kv_length": sizes.kv_length,
        "head_dim": sizes.head_dim,
        "value_dim": sizes.value_dim,
        "dtype": str(sizes.dtype),
        "mask": str(sizes.mask),
        "is_causal": sizes.is_causal,
        "scale": sizes.scale,
    }


def _value_to_json(value: Any) -> dict[str, Any]:
    return {
        "name": value.name,
        "dtype": value.dtype,
        "shape": list(value.shape),
        "value_range": None if value.value_range is None else list(value.value_range),
    }
