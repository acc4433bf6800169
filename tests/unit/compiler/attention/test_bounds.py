"""Lower bounds against figures that were computed elsewhere and checked with two public tools."""

from __future__ import annotations

import dataclasses

import pytest

from hocket.compiler.attention.bottleneck import Resource, binding_resource
from hocket.compiler.attention.bounds import compulsory_bytes, lower_bounds
from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target

# Workload, heads, length, head size; million cycles of the matrix units, of the vector units at
# five lane-cycles a score, and of DRAM, on two cores of 256 MAC and 256 lanes, four words a cycle.
PUBLISHED = [
    ("BERT-Base", 12, 512, 64, 0.7864, 0.0307, 0.3932),
    ("BERT-Large", 16, 512, 64, 1.0486, 0.0410, 0.5243),
    ("BERT-Small", 8, 512, 64, 0.5243, 0.0205, 0.2621),
    ("Llama3-8B", 32, 512, 128, 4.1943, 0.0819, 2.0972),
    ("T5-Mini", 8, 512, 32, 0.2621, 0.0205, 0.1311),
    ("ViT-B/14", 12, 256, 64, 0.1966, 0.0077, 0.1966),
    ("ViT-L/14", 16, 256, 64, 0.2621, 0.0102, 0.2621),
    ("ViT-H/14", 16, 256, 80, 0.3277, 0.0102, 0.3277),
    ("ViT-B/16", 12, 196, 64, 0.1152, 0.0045, 0.1505),
    ("ViT-L/16", 16, 196, 64, 0.1537, 0.0060, 0.2007),
    ("ViT-H/16", 16, 196, 80, 0.1921, 0.0060, 0.2509),
    ("XLM", 8, 512, 128, 1.0486, 0.0205, 0.5243),
]


def make_problem(heads: int, length: int, dim: int, **changes: object) -> AttentionProblem:
    problem = AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)
    return dataclasses.replace(problem, **changes)


@pytest.mark.parametrize(("name", "heads", "length", "dim", "matrix", "vector", "dram"), PUBLISHED)
def test_bounds_agree_with_published_ones(
    name: str, heads: int, length: int, dim: int, matrix: float, vector: float, dram: float
) -> None:
    bounds = lower_bounds(make_problem(heads, length, dim), load_target("mas-edge"))
    assert bounds.matrix_cycles / 1e6 == pytest.approx(matrix, abs=5e-5), name
    # Published with the division on every score; the output has fewer elements.
    share = (4 + min(dim / length, 1)) / 5
    assert bounds.vector_cycles / 1e6 == pytest.approx(vector * share, abs=5e-5), name
    assert bounds.dma_cycles / 1e6 == pytest.approx(dram, abs=5e-5), name
    assert bounds.cycles == max(bounds.matrix_cycles, bounds.vector_cycles, bounds.dma_cycles)


def test_causality_halves_the_work_up_to_the_diagonal() -> None:
    machine = load_target("mas-edge")
    dense = lower_bounds(make_problem(8, 512, 64), machine)
    causal = lower_bounds(make_problem(8, 512, 64, is_causal=True), machine)
    assert causal.matrix_cycles / dense.matrix_cycles == pytest.approx((1 + 1 / 512) / 2)


def test_a_full_mask_is_read_once() -> None:
    machine = load_target("mas-edge")
    plain = make_problem(2, 64, 16)
    masked = make_problem(2, 64, 16, mask=MaskKind.ADDITIVE, mask_shape=(1, 1, 64, 64))
    difference = compulsory_bytes(masked, machine) - compulsory_bytes(plain, machine)
    assert difference == 64 * 64 * machine.element_bytes


def test_of_a_full_mask_causality_reads_the_triangle_alone() -> None:
    machine = load_target("mas-edge")
    plain = make_problem(1, 6, 1, is_causal=True)
    masked = dataclasses.replace(plain, mask=MaskKind.ADDITIVE, mask_shape=(1, 1, 6, 6))
    difference = compulsory_bytes(masked, machine) - compulsory_bytes(plain, machine)
    assert difference == (6 * 7 // 2) * machine.element_bytes


def test_units_that_take_turns_add_up() -> None:
    machine = dataclasses.replace(load_target("mas-edge"), has_concurrent_units=False)
    bounds = lower_bounds(make_problem(12, 512, 64), machine)
    assert bounds.cycles == bounds.matrix_cycles + bounds.vector_cycles
    assert binding_resource(bounds, machine) is Resource.CORE
