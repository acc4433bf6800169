"""Regions, programs and weights, put together into an artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.graph.host_model import build_host_models
from hocket.compiler.graph.regions import AttentionRegion, HostRegion, Layout
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.program_json import program_to_json
from hocket.runtime.artifact import Artifact
from hocket.runtime.kernels.parameters import AttentionParameters
from hocket.runtime.signature import Signature, TensorSpec
from hocket.runtime.steps import AttentionStep, HostModel, HostStep, LeftToHost, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.compiler.graph.regions import PartitionedModel, ValueInfo
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program
    from hocket.runtime.resizing import Resizing


@dataclass(frozen=True)
class AttentionPlan:
    """What the attention wing decided about a problem, as far as an artifact keeps it.

    Attributes:
        program: For the target machine.
        query_rows, kv_columns: Tile sizes that kernels follow.
        tiling: The whole tiling, in words.
        dataflow: Name of the dataflow.
        estimate: What the program is predicted to take.
    """

    program: Program
    query_rows: int
    kv_columns: int
    tiling: str
    dataflow: str
    estimate: Estimate


def assemble_artifact(
    model: PartitionedModel,
    plans: Mapping[AttentionProblem, AttentionPlan],
    *,
    model_name: str,
    producer: str,
    target: HardwareModel,
    num_threads: int,
    resizing: Resizing | None = None,
) -> Artifact:
    """Put an artifact together.

    Args:
        model: The regions of a model.
        plans: A plan for each problem among its attention regions, as planned.
        model_name, producer, target, num_threads, resizing: See ``Artifact``.
    """
    problems = list(plans)  # as planned, without rules
    host_regions = [region for region in model.regions if isinstance(region, HostRegion)]
    hosts = build_host_models(host_regions, num_threads)
    made = {
        name: (number, outputs)
        for number, host in enumerate(hosts)
        for name, outputs in host.outputs.items()
    }
    steps: list[Step] = []
    for region in model.regions:
        if isinstance(region, AttentionRegion):
            number = problems.index(region.problem.planned)
            mask = model.values[region.mask] if region.mask is not None else None
            steps.append(_attention_step(region, plans[problems[number]], number, mask))
            continue
        number, outputs = made[region.name]
        steps.append(
            HostStep(region.name, region.inputs, region.outputs, number, outputs, region.num_nodes)
        )
    tensors = {name: _spec(info) for name, info in model.values.items()}
    tensors |= {info.name: _spec(info) for info in (*model.inputs, *model.outputs)}
    return Artifact(
        model_name=model_name,
        producer=producer,
        target=target,
        signature=Signature(
            tuple(tensors[info.name] for info in model.inputs),
            tuple(tensors[info.name] for info in model.outputs),
        ),
        tensors=tensors,
        steps=tuple(steps),
        programs=tuple(_program_bytes(plan.program) for plan in plans.values()),
        host_models=tuple(
            HostModel(each.content, each.turn, tuple(each.weights)) for each in hosts
        ),
        weights={name: array for host in hosts for name, array in host.weights.items()},
        left_to_host=tuple(LeftToHost(left.node, left.op, left.reason) for left in model.not_taken),
        dims=dict(model.dims),
        num_threads=num_threads,
        resizing=resizing,
    )


def kernel_parameters(
    problem: AttentionProblem,
    layouts: tuple[Layout, Layout, Layout, Layout],
    query_rows: int,
    kv_columns: int,
    mask_dtype: DType | None = None,
) -> AttentionParameters:
    """Return what a kernel for a problem is generated from.

    Args:
        problem: What to compute.
        layouts: Of query, key, value and output.
        query_rows, kv_columns: Tile sizes.
        mask_dtype: Element type of an additive mask, where it is not that of the problem.

    Raises:
        UnsupportedError: The kernels do not serve such a problem.
    """
    return AttentionParameters(
        batch=problem.batch,
        query_heads=problem.query_heads,
        kv_heads=problem.kv_heads,
        query_length=problem.query_length,
        kv_length=problem.kv_length,
        head_dim=problem.head_dim,
        value_dim=problem.value_dim,
        dtype=problem.dtype,
        scale=float(problem.scale),
        mask=problem.mask.value,
        mask_shape=problem.mask_shape,
        masked_value=float(problem.masked_value),
        masked_rows=problem.masked_rows.value,
        is_causal=problem.is_causal,
        query_layout=layouts[0],
        key_layout=layouts[1],
        value_layout=layouts[2],
        output_layout=layouts[3],
        query_rows=query_rows,
        kv_columns=kv_columns,
        mask_dtype=mask_dtype,
        query_offset=problem.rules.query_offset,
        left_window=problem.rules.left_window,
        right_window=problem.rules.right_window,
        softcap=float(problem.rules.softcap),
        has_kv_lengths=problem.rules.has_kv_lengths,
        counts_from_end=problem.rules.counts_from_end,
        mask_hides_rest=problem.rules.mask_hides_rest,
    )


def _attention_step(
    region: AttentionRegion, plan: AttentionPlan, number: int, mask: ValueInfo | None
) -> AttentionStep:
    layouts = (
        region.query_layout,
        region.key_layout,
        region.value_layout,
        region.output_layout,
    )
    # A model of half precision may add its masks in float32, and often does.
    mask_dtype = None
    if mask is not None and mask.dtype not in ("bool", region.problem.dtype.value):
        mask_dtype = DType(mask.dtype)
    return AttentionStep(
        name=region.name,
        form=region.form,
        parameters=kernel_parameters(
            region.problem, layouts, plan.query_rows, plan.kv_columns, mask_dtype
        ),
        query=region.query,
        key=region.key,
        value=region.value,
        mask=region.mask,
        kv_lengths=region.kv_lengths,
        output=region.output,
        program=number,
        tiling=plan.tiling,
        dataflow=plan.dataflow,
        estimate=plan.estimate,
    )


def _spec(info: ValueInfo) -> TensorSpec:
    return TensorSpec(info.name, DType(info.dtype), info.shape, info.value_range)


def _program_bytes(program: Program) -> bytes:
    return json.dumps(program_to_json(program), separators=(",", ":")).encode()
