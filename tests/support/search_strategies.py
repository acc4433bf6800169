"""Hypothesis strategies for the search: spaces of every form, and spaces small enough to try all.

Machines are drawn so that each resource may be the one that binds, with figures that are no round
numbers, as bounds must hold on all of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, Dataflow
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel


@st.composite
def search_problems(
    draw: st.DrawFn, max_length: int = 48, max_dim: int = 16, max_heads: int = 4
) -> AttentionProblem:
    """Attention problems of every form that the search can see: masks, causality, shared heads."""
    kv_heads = draw(st.integers(1, min(3, max_heads)))
    query_heads = kv_heads * draw(st.integers(1, max_heads))
    batch = draw(st.integers(1, 2))
    query_length = draw(st.integers(1, max_length))
    kv_length = draw(st.one_of(st.just(query_length), st.integers(1, max_length)))
    full = (batch, query_heads, query_length, kv_length)
    mask = draw(st.sampled_from(MaskKind))
    shape = None
    if mask is not MaskKind.NONE:
        batches, heads, rows, columns = (draw(st.sampled_from((1, size))) for size in full)
        shape = (batches, heads, rows, columns)
    return AttentionProblem(
        batch,
        query_heads,
        kv_heads,
        query_length,
        kv_length,
        head_dim=draw(st.integers(1, max_dim)),
        value_dim=draw(st.integers(1, max_dim)),
        dtype=DType.FLOAT32,
        scale=0.5,
        mask=mask,
        mask_shape=shape,
        is_causal=draw(st.booleans()),
    )


@st.composite
def search_machines(
    draw: st.DrawFn, min_capacity: int = 1 << 9, max_block: int = 8
) -> HardwareModel:
    """Machines of up to seven cores, slow or fast in each respect, with or without ports."""
    base = load_target("mas-edge")
    # Many figures at once: drawn from one seed, which shrinks badly but is quick.
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))

    def figure(highest: float) -> float:
        return float(generator.choice([0.0, generator.uniform(0, highest)], p=[0.2, 0.8]))

    has_ports = draw(st.booleans())
    rows, columns = draw(st.integers(1, max_block)), draw(st.integers(1, max_block))
    vector = dataclasses.replace(
        base.vector_unit,
        lanes=int(generator.integers(1, 17)),
        startup_cycles=int(generator.choice([0, 1, 5, 40])),
        max_lane_cycles=figure(3),
        subtract_lane_cycles=figure(3),
        exp_lane_cycles=figure(20),
        sum_lane_cycles=figure(3),
        divide_lane_cycles=figure(10),
        mask_lane_cycles=figure(4),
        rescale_lane_cycles=figure(6),
        exponentials_reads_per_element=figure(3),
        exponentials_writes_per_element=figure(3),
        divide_reads_per_element=figure(3),
        divide_writes_per_element=figure(3),
        port_bytes_per_cycle=figure(16) * has_ports,
        pj_per_lane_cycle=figure(1),
    )
    matrix = dataclasses.replace(
        base.matrix_unit,
        block_rows=rows,
        block_columns=columns,
        macs_per_cycle=int(generator.integers(1, 2 * rows * columns + 1)),
        startup_cycles=int(generator.choice([0, 1, 16, 60])),
        port_bytes_per_cycle=figure(32) * has_ports,
        pj_per_mac=figure(1),
    )
    clock_hz = float(generator.choice([1e6, 1e9]))
    return dataclasses.replace(
        base,
        name="drawn",
        num_cores=draw(st.sampled_from([1, 1, 2, 3, 4, 7])),
        element_bytes=draw(st.sampled_from([1, 2, 4])),
        has_concurrent_units=draw(st.sampled_from([True, True, False])),
        alignment_bytes=draw(st.sampled_from([1, 2, 16, 64])),
        leakage_watts=figure(2),
        clock_hz=clock_hz,
        matrix_unit=matrix,
        vector_unit=vector,
        on_chip_memory=dataclasses.replace(
            base.on_chip_memory,
            capacity_bytes=draw(st.integers(min_capacity, 1 << 18)),
            read_pj_per_byte=figure(15),
            write_pj_per_byte=figure(15),
        ),
        outer_memory=dataclasses.replace(
            base.outer_memory, read_pj_per_byte=figure(60), write_pj_per_byte=figure(60)
        ),
        dma=dataclasses.replace(
            base.dma,
            bandwidth_bytes_per_second=float(2 ** generator.uniform(-2, 6)) * clock_hz,
            latency_cycles=int(generator.choice([0, 3, 50, 300])),
            has_separate_write_port=draw(st.booleans()),
        ),
    )


def dataflows() -> st.SearchStrategy[Dataflow]:
    """Dataflows, half of the time our own, which has most choices."""
    return st.one_of(st.just(DATAFLOWS["hocket"]), st.sampled_from(list(DATAFLOWS.values())))


@st.composite
def spaces(draw: st.DrawFn) -> TilingSpace:
    """Spaces of all sizes; in some nothing fits."""
    return TilingSpace(draw(search_problems()), draw(search_machines()), draw(dataflows()))


@st.composite
def tiny_spaces(draw: st.DrawFn, min_capacity: int = 1 << 9) -> TilingSpace:
    """Spaces of some hundred tilings at most, each of a small program."""
    dataflow = draw(dataflows())
    dataflow = dataclasses.replace(dataflow, live_blocks=dataflow.live_blocks[:2])
    return TilingSpace(
        draw(search_problems(max_length=6, max_dim=6, max_heads=2)),
        draw(search_machines(min_capacity, max_block=4)),
        dataflow,
    )
