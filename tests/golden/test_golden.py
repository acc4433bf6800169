"""Text that people read, kept as it was; look at the difference before you take a new one.

``pytest tests/golden --update-golden`` rewrites the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.tiling import Tiling
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import simulate
from hocket.hwmodels.trace import text_gantt
from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.kernels.generator import generate_source
from hocket.runtime.kernels.parameters import AttentionParameters

Golden = Callable[[str, str], None]


@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
def test_gantt(golden: Golden, dataflow: str) -> None:
    machine = load_target("mas-edge")
    # Softmax as slow as the products: where it shows whether the two voices alternate.
    vector = dataclasses.replace(machine.vector_unit, exp_lane_cycles=124.0)
    machine = dataclasses.replace(machine, num_cores=1, vector_unit=vector)
    problem = AttentionProblem(1, 2, 2, 128, 128, 64, 64, DType.FLOAT16, 0.125)
    chosen = DATAFLOWS[dataflow]
    tiling = Tiling(
        query_rows=32,
        kv_columns=64,
        resident_tiles=8,
        live_blocks=chosen.live_blocks[-1],
        softmax=chosen.softmaxes[-1],
        split=chosen.splits[0],
    )
    program = build_program(problem, tiling, chosen, machine)
    golden(f"gantt-{dataflow}", text_gantt(simulate(program, machine)))


@pytest.mark.parametrize("is_causal", [False, True])
def test_kernel_source(golden: Golden, is_causal: bool) -> None:
    parameters = AttentionParameters(
        batch=1,
        query_heads=12,
        kv_heads=12,
        query_length=128,
        kv_length=128,
        head_dim=32,
        value_dim=32,
        dtype=DType.FLOAT32,
        scale=0.25,
        mask="none" if is_causal else "additive",
        mask_shape=None if is_causal else (1, 1, 1, 128),
        masked_value=float("-inf"),
        masked_rows="nan",
        is_causal=is_causal,
        query_layout="bnhd",
        key_layout="bnhd",
        value_layout="bnhd",
        output_layout="bnhd",
        query_rows=128,
        kv_columns=128,
    )
    cpu = CpuFeatures("any", vector_lanes=16, num_vector_registers=32)
    name = "kernel-causal" if is_causal else "kernel-key-padding"
    golden(name, generate_source(parameters, cpu).text)
