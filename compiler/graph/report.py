"""What was recognised and what was not, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.graph.regions import AttentionRegion, HostRegion

if TYPE_CHECKING:
    from hocket.compiler.graph.regions import NotTaken, PartitionedModel


@dataclass(frozen=True)
class RecognitionReport:
    """What became of a model.

    Attributes:
        taken: The attention regions, in the order in which they run.
        not_taken: What looked like attention and stays with the host.
        host_nodes: Nodes of each host region, by its name.
        dims: The dimensions that were bound.
    """

    taken: tuple[AttentionRegion, ...]
    not_taken: tuple[NotTaken, ...]
    host_nodes: dict[str, int]
    dims: dict[str, int]

    def __str__(self) -> str:
        lines = [_count(len(self.taken), "attention region") + ":"] if self.taken else []
        lines = lines or ["no attention region"]
        for region in self.taken:
            lines.append(f"  {region.name}")
            lines.append(f"    {region.problem}, scale {region.problem.scale:.6g}")
            lines.append(f"    {region.form}")
            lines.append(f"    {_describe_layouts(region)}")
        if self.not_taken:
            lines.append(f"{_count(len(self.not_taken), 'node')} left to the host:")
            lines += [f"  {item.node} ({item.op}): {item.reason}" for item in self.not_taken]
        nodes = sum(self.host_nodes.values())
        lines.append(f"{_count(len(self.host_nodes), 'host region')}, {_count(nodes, 'node')}")
        if self.dims:
            lines.append("with " + ", ".join(f"{name}={size}" for name, size in self.dims.items()))
        return "\n".join(lines)


def make_report(partitioned: PartitionedModel) -> RecognitionReport:
    """Return the report of a partitioned model."""
    regions = partitioned.regions
    return RecognitionReport(
        taken=tuple(region for region in regions if isinstance(region, AttentionRegion)),
        not_taken=partitioned.not_taken,
        host_nodes={
            region.name: region.num_nodes for region in regions if isinstance(region, HostRegion)
        },
        dims=dict(partitioned.dims),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe_layouts(region: AttentionRegion) -> str:
    inputs = {region.query_layout, region.key_layout, region.value_layout}
    if len(inputs) == 1:
        read = f"reads {region.query_layout}"
    else:
        read = (
            f"reads query {region.query_layout}, key {region.key_layout}, "
            f"value {region.value_layout}"
        )
    return f"{read}, writes {region.output_layout}"
