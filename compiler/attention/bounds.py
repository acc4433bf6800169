"""What no schedule can beat: each resource on its own, working without a pause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.attention.tiling import is_masked

if TYPE_CHECKING:
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel


@dataclass(frozen=True)
class Bounds:
    """Least cycles each resource needs for a problem.

    Attributes:
        matrix_cycles: All multiply-accumulates at the full rate of all cores.
        vector_cycles: All softmax work at the full rate of all cores.
        dma_cycles: Query, key, value and mask read once, output written once.
        cycles: What binds: the largest of them, or, where the units of a core take turns, the two
            compute terms together against the transfers.
    """

    matrix_cycles: float
    vector_cycles: float
    dma_cycles: float
    cycles: float


def lower_bounds(problem: AttentionProblem, machine: HardwareModel) -> Bounds:
    """Return the lower bounds of a problem on a machine.

    With M multiply-accumulates and V lanes a cycle over all cores, W bytes a cycle on a DMA port:
    macs / M; bytes / W, of loads and stores together or, with a port each, of the more; and
    lane-cycles / V. Every score must take part in a maximum, a subtraction, an exponential and a
    sum; the division may be done on the probabilities or, where that is less, on the output.
    """
    cores = machine.num_cores
    vector = machine.vector_unit
    scores = problem.num_score_elements
    outputs = problem.batch * problem.query_heads * problem.query_length * problem.value_dim
    lane_cycles = vector.exponentials_lane_cycles * scores
    lane_cycles += vector.divide_lane_cycles * min(scores, outputs)
    if is_masked(problem):
        lane_cycles += vector.mask_lane_cycles * scores
    matrix_cycles = problem.num_macs / (machine.matrix_unit.macs_per_cycle * cores)
    vector_cycles = lane_cycles / (vector.lanes * cores)
    loads, stores = compulsory_loads(problem, machine), compulsory_stores(problem, machine)
    num_bytes = max(loads, stores) if machine.dma.has_separate_write_port else loads + stores
    dma_cycles = num_bytes / machine.bandwidth_bytes_per_cycle
    if machine.has_concurrent_units:
        compute_cycles = max(matrix_cycles, vector_cycles)
    else:
        compute_cycles = matrix_cycles + vector_cycles
    return Bounds(matrix_cycles, vector_cycles, dma_cycles, max(compute_cycles, dma_cycles))


def compulsory_bytes(problem: AttentionProblem, machine: HardwareModel) -> int:
    """Return the bytes that must cross the DMA ports: each input once in, the output once out."""
    return compulsory_loads(problem, machine) + compulsory_stores(problem, machine)


def compulsory_stores(problem: AttentionProblem, machine: HardwareModel) -> int:
    """Return the bytes of the output."""
    rows = problem.batch * problem.query_heads * problem.query_length
    return rows * problem.value_dim * machine.element_bytes


def compulsory_loads(problem: AttentionProblem, machine: HardwareModel) -> int:
    """Return the bytes of the inputs, as far as they are needed."""
    return sum(compulsory_loads_by_tensor(problem, machine).values())


def compulsory_loads_by_tensor(problem: AttentionProblem, machine: HardwareModel) -> dict[str, int]:
    """Return the bytes of each input, as far as they are needed."""
    query_rows = problem.batch * problem.query_heads * problem.query_length
    kv_length = problem.kv_length
    if problem.is_causal:
        kv_length = min(kv_length, problem.query_length)
    kv_rows = problem.batch * problem.kv_heads * kv_length
    elements = {
        "query": query_rows * problem.head_dim,
        "key": kv_rows * problem.head_dim,
        "value": kv_rows * problem.value_dim,
    }
    if problem.mask_shape is not None:
        mask_batch, mask_heads, mask_rows, mask_columns = problem.mask_shape
        if mask_rows > 1 and mask_columns > 1:
            # Of a full mask, only the entries of scores that are computed: causality reads no more.
            per_matrix = problem.num_score_elements // (problem.batch * problem.query_heads)
        else:
            per_matrix = mask_rows * min(mask_columns, kv_length)
        elements["mask"] = mask_batch * mask_heads * per_matrix
    return {tensor: count * machine.element_bytes for tensor, count in elements.items()}
