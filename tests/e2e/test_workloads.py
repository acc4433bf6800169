"""The programs found for the twelve workloads of MAS-Attention, run on real numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.problems import make_tensors, reference_attention

from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.interpreter import interpret
from hocket.hwmodels.loader import load_target
from hocket.networks import NETWORKS


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize(("dataflow", "vector_cost"), [("hocket", 5.0), ("mas", 128.0)])
def test_its_program_computes_attention(network: str, dataflow: str, vector_cost: float) -> None:
    machine = load_target("mas-edge")
    vector = dataclasses.replace(machine.vector_unit, exp_lane_cycles=vector_cost - 4.0)
    machine = dataclasses.replace(machine, vector_unit=vector)
    heads, length, dim = NETWORKS[network]
    problem = AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)
    result = lower_attention(
        problem, machine, dataflow=dataflow, budget=Budget(tasks=100_000), verify=True
    )
    tensors = make_tensors(problem, seed=0)
    interpret(result.best.program, machine, tensors)
    expected = reference_attention(problem, tensors)
    np.testing.assert_allclose(tensors["output"], expected, rtol=1e-9, atol=1e-12)
