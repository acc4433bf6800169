"""What there is to know about a model or a compiled module: its attention, and all that is not."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.compiler.attention.explain import Explanation
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


@dataclass(frozen=True)
class LayerReport:
    """One attention layer of a compiled module."""

    artifact: Artifact
    step: AttentionStep
    # Layers of equal sizes share a program, which is simulated once: timelines by its index.
    _timelines: dict[int, Timeline] = field(default_factory=dict, repr=False, compare=False)

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

    @property
    def problem(self) -> AttentionProblem:
        """What it computes, as the compiler sees it."""
        from hocket.compiler.problem import AttentionProblem, MaskedRows, MaskKind

        sizes = self.step.parameters
        names = {each.name for each in fields(AttentionProblem)}
        values = {name: value for name, value in vars(sizes).items() if name in names}
        values["mask"] = MaskKind(sizes.mask)
        values["masked_rows"] = MaskedRows(sizes.masked_rows)
        return AttentionProblem(**values)

    @cached_property
    def explanation(self) -> Explanation:
        """What separates its program from the bound, and what would help.

        Raises:
            ArtifactError: The stored program is not well formed.
        """
        from hocket.compiler.attention.explain import explain_program

        timeline = self.timeline()
        target = self.artifact.target
        return explain_program(timeline.program, self.estimate, self.problem, target, timeline)

    def timeline(self) -> Timeline:
        """Return its program in virtual time.

        Raises:
            ArtifactError: The stored program is not well formed.
        """
        from hocket.hwmodels.simulate import simulate

        index = self.step.program
        if index not in self._timelines:
            self._timelines[index] = simulate(
                self.artifact.program(self.step), self.artifact.target
            )
        return self._timelines[index]

    def gantt(self, width: int = 72) -> str:
        """Return the beginning of its schedule as text, see ``opening_gantt``."""
        from hocket.hwmodels.trace import opening_gantt

        return opening_gantt(self.timeline(), width, self.estimate.cycles)

    def moved_bytes(self) -> dict[str, tuple[int, int]]:
        """Return the bytes read from and written to DRAM, by tensor.

        Inputs are read and outputs written; scores that do not stay on chip go there and back.
        """
        moved = {}
        for tensor, count in self.estimate.dram_bytes_by_tensor:
            read = {"output": 0, "scores": count // 2}.get(tensor, count)
            moved[tensor] = (read, count - read)
        return moved

    def write_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the beginning of its schedule, as PNG, SVG or PDF by the file's ending.

        Raises:
            PlotError: matplotlib is not installed.
            ValueError: The file has another ending.
        """
        from hocket.plotting import draw_schedule

        total = self.estimate.cycles
        draw_schedule(self.timeline(), path, title=self.title, total_cycles=total)

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write its schedule as an HTML page to zoom into, with the totals on top."""
        from hocket.gantt.page import write_gantt_html
        from hocket.simulation_result import estimate_facts

        facts = [
            *estimate_facts(self.estimate),
            ("layer", self.name),
            ("problem", str(self.problem)),
            ("tiling", self.step.tiling),
            ("next lever", self.explanation.next_lever),
        ]
        write_gantt_html(self.timeline(), path, title=self.title, facts=facts)

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write its schedule in the trace-viewer's JSON form."""
        from hocket.simulation_result import write_trace

        write_trace(self.timeline(), path)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        from hocket.simulation_result import stalls_to_json

        explanation = self.explanation
        return {
            "name": self.step.name,
            "form": self.step.form,
            **_sizes_to_json(self.step.parameters),
            "tiling": self.step.tiling,
            "dataflow": self.step.dataflow,
            "estimate": self.step.estimate.to_json(),
            "of_bound": explanation.of_bound,
            "binding": str(explanation.binding),
            "next_lever": explanation.next_lever,
            "losses": {str(loss.cause): loss.cycles for loss in explanation.losses},
            "stalls": stalls_to_json(self.timeline()),
            "memory": self._memory_to_json(),
            "bandwidth": self._bandwidth_to_json(),
        }

    def _memory_to_json(self) -> dict[str, Any]:
        on_chip, outer = self.artifact.target.on_chip_memory, self.artifact.target.outer_memory
        peak = self.estimate.peak_on_chip_bytes
        moved = self.moved_bytes()
        return {
            "on_chip": {
                "name": on_chip.name,
                "capacity_bytes": on_chip.capacity_bytes,
                "peak_bytes": peak,
                "share": peak / on_chip.capacity_bytes,
            },
            "outer": {
                "name": outer.name,
                "capacity_bytes": outer.capacity_bytes,
                "read_bytes": {tensor: read for tensor, (read, _) in moved.items() if read},
                "written_bytes": {
                    tensor: written for tensor, (_, written) in moved.items() if written
                },
            },
        }

    def _bandwidth_to_json(self) -> dict[str, Any]:
        moved, seconds = self.moved_bytes(), self.estimate.seconds
        read = sum(each for each, _ in moved.values())
        written = sum(each for _, each in moved.values())
        dma = self.artifact.target.dma
        return {
            "available_bytes_per_second": dma.bandwidth_bytes_per_second,
            "num_ports": self.estimate.num_dma_ports,
            "read_bytes_per_second": read / seconds if seconds else 0.0,
            "written_bytes_per_second": written / seconds if seconds else 0.0,
        }


@dataclass(frozen=True)
class ArtifactReport:
    """A compiled module, layer by layer."""

    artifact: Artifact

    @property
    def target(self) -> HardwareModel:
        """The machine it was compiled for."""
        return self.artifact.target

    @cached_property
    def layers(self) -> tuple[LayerReport, ...]:
        """Its attention layers, in the order in which they run."""
        timelines: dict[int, Timeline] = {}
        return tuple(
            LayerReport(self.artifact, step, timelines) for step in self.artifact.attention_steps
        )

    @property
    def num_host_nodes(self) -> int:
        """ONNX nodes that onnxruntime runs."""
        return sum(step.num_nodes for step in self.artifact.host_steps)

    @property
    def host_share(self) -> float:
        """Share of nodes that onnxruntime runs, 0 to 1, where each attention counts as one."""
        total = self.num_host_nodes + len(self.artifact.attention_steps)
        return self.num_host_nodes / total if total else 0.0

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
            "host_share": self.host_share,
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
