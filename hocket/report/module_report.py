"""The report of a compiled module: its layers, a schedule, rooflines and the tilings there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.landscape import map_landscape
from hocket.compiler.attention.search.space import TilingSpace
from hocket.gantt.page import gantt_html
from hocket.report.drawings import Point, draw_landscape, draw_roofline
from hocket.report.page import Section, embedded, facts, figure, page_html, paragraph, table
from hocket.simulation_result import estimate_facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.inspection import ArtifactReport, LayerReport

_COLUMNS = (
    *("layers", "heads", "lengths", "dims", "cycles", "of bound", "time"),
    *("matrix", "vector", "DRAM port", "energy", "DRAM", "on chip", "tiling"),
)


def module_report(report: ArtifactReport, layer: int = 0) -> str:
    """Return the report of a compiled module as a page.

    Args:
        report: What there is to know about it.
        layer: Whose schedule and tilings are shown.

    Raises:
        ArtifactError: A stored program is not well formed.
        PlotError: matplotlib is not installed.
    """
    artifact = report.artifact
    sections = [
        Section("Module", tuple(_summary(report))),
        *attention_sections(report, layer),
        Section("Left to the host", tuple(_host(report))),
    ]
    return page_html(
        artifact.model_name or "compiled module",
        f"compiled for {artifact.target.name}: {artifact.target.description}",
        sections,
    )


def attention_sections(report: ArtifactReport, layer: int = 0) -> list[Section]:
    """Return what there is to show of a module's attention; nothing if it has none.

    Args:
        report: What there is to know about the module.
        layer: Whose schedule and tilings are shown.

    Raises:
        ArtifactError: A stored program is not well formed.
        PlotError: matplotlib is not installed.
    """
    if not report.layers:
        return []
    chosen = report.layers[layer]
    return [
        Section("Layers", tuple(_layers(report))),
        Section("Schedule", tuple(_schedule(chosen, layer))),
        Section("Roofline", tuple(_roofline(report))),
        Section("Tilings", tuple(_tilings(chosen, layer))),
    ]


def _summary(report: ArtifactReport) -> Iterable[str]:
    summary = report.summary()
    sizes = ", ".join(f"{name} {size}" for name, size in summary["dims"].items())
    yield facts(
        [
            ("attention layers", str(summary["attention_layers"])),
            ("nodes left to the host", f"{summary['host_nodes']} ({summary['host_share']:.0%})"),
            ("sizes", sizes or "fixed"),
            ("machine", str(report.target)),
            *estimate_facts(report.artifact.estimate),
            ("digest", summary["digest"][:16]),
        ]
    )
    yield paragraph(
        "Figures are of all attention together, simulated on the description of the machine; "
        "nothing here was measured on it."
    )


def _layers(report: ArtifactReport) -> Iterable[str]:
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, each in enumerate(report.layers):
        alike.setdefault((each.step.program, each.step.tiling), []).append(number)
    rows = []
    for numbers in alike.values():
        one = report.layers[numbers[0]]
        sizes, estimate = one.step.parameters, one.estimate
        rows.append(
            (
                ", ".join(map(str, numbers)),
                str(sizes.query_heads),
                f"{sizes.query_length} x {sizes.kv_length}",
                str(sizes.head_dim),
                f"{estimate.cycles:,.0f}",
                f"{estimate.of_bound:.3f}",
                f"{estimate.seconds * 1e3:.3g} ms",
                f"{estimate.matrix_utilization:.0%}",
                f"{estimate.vector_utilization:.0%}",
                f"{estimate.dma_utilization:.0%}",
                f"{estimate.joules * 1e3:.3g} mJ",
                f"{estimate.dram_bytes / 1e6:.3g} MB",
                f"{estimate.peak_on_chip_bytes / 1e3:,.0f} kB",
                one.step.tiling,
            )
        )
    yield table(_COLUMNS, rows, text=("tiling",))
    yield paragraph(
        "Of one layer each; layers that are alike share a row. Of bound: cycles over what no "
        "program can beat. Matrix, vector, DRAM port: share of the time in which they work."
    )


def _schedule(layer: LayerReport, number: int) -> Iterable[str]:
    yield paragraph(f"Layer {number}, {layer.name}: {layer.explanation}")
    page = gantt_html(layer.timeline(), title=layer.title, facts=estimate_facts(layer.estimate))
    yield embedded(page, f"schedule of layer {number}")


def _roofline(report: ArtifactReport) -> Iterable[str]:
    points: dict[tuple[float, float], list[int]] = {}
    for number, each in enumerate(report.layers):
        macs, estimate = each.problem.num_macs, each.estimate
        at = (macs / max(estimate.dram_bytes, 1), macs / estimate.seconds)
        points.setdefault(at, []).append(number)
    drawn = [
        Point(
            f"layer {numbers[0]}" + (f" and {len(numbers) - 1} like it" * (len(numbers) > 1)), *at
        )
        for at, numbers in points.items()
    ]
    yield figure(
        draw_roofline(report.target, drawn),
        "Where a layer is under the roof, softmax holds it up, or the wait for data; where it is "
        "under the slope, DRAM does.",
    )


def _tilings(layer: LayerReport, number: int) -> Iterable[str]:
    yield paragraph(f"Chosen, of dataflow {layer.step.dataflow}: {layer.step.tiling}.")
    dataflow = DATAFLOWS.get(layer.step.dataflow)
    if dataflow is None:
        yield paragraph(
            f"No map: this version of Hocket knows no dataflow {layer.step.dataflow!r}."
        )
        return
    found = map_landscape(TilingSpace(layer.problem, layer.artifact.target, dataflow))
    if not np.isfinite(found.cycles).any():
        yield paragraph("There is no map: the tensors do not fit into the machine's memory.")
        return
    yield figure(
        draw_landscape(found),
        f"Cycles of layer {number} by the sizes of its tiles, as a multiple of the best (star): of "
        "each size the tiling that promises most, simulated; white dots are guesses by closed "
        "forms, and blank places do not fit the machine.",
    )


def _host(report: ArtifactReport) -> Iterable[str]:
    left = report.artifact.left_to_host
    if not left:
        yield paragraph("All attention was compiled; everything else runs in onnxruntime.")
        return
    yield paragraph("Attention, or what looks like it, that onnxruntime runs:")
    rows = [(each.node, each.op, each.reason) for each in left]
    yield table(("node", "operator", "why"), rows, text=("operator", "why"))
