"""The resource that binds: which one gives the lower bound, and what more of it would bring."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

from hocket.compiler.attention.bounds import lower_bounds

if TYPE_CHECKING:
    from hocket.compiler.attention.bounds import Bounds
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel


class Resource(enum.Enum):
    """What can bind: a unit of each core, both where they take turns, or the way to DRAM."""

    MATRIX = "matrix unit"
    VECTOR = "vector unit"
    CORE = "core (its units take turns)"
    DRAM = "DRAM port"

    def __str__(self) -> str:
        return self.value


def binding_resource(bounds: Bounds, machine: HardwareModel) -> Resource:
    """Return the resource that gives the bound."""
    units = bounds.matrix_cycles, bounds.vector_cycles
    compute = max(units) if machine.has_concurrent_units else sum(units)
    if bounds.dma_cycles > compute:
        return Resource.DRAM
    return _busier_unit(bounds) if machine.has_concurrent_units else Resource.CORE


def busy_cycles(resource: Resource, estimate: Estimate) -> float:
    """Return how long a resource works, over all cores."""
    return {
        Resource.MATRIX: estimate.matrix_busy_cycles,
        Resource.VECTOR: estimate.vector_busy_cycles,
        Resource.CORE: estimate.matrix_busy_cycles + estimate.vector_busy_cycles,
        Resource.DRAM: estimate.dma_busy_cycles,
    }[resource]


def utilization(resource: Resource, estimate: Estimate) -> float:
    """Return the share of the time in which a resource works."""
    return {
        Resource.MATRIX: estimate.matrix_utilization,
        Resource.VECTOR: estimate.vector_utilization,
        Resource.CORE: estimate.matrix_utilization + estimate.vector_utilization,
        Resource.DRAM: estimate.dma_utilization,
    }[resource]


def double_bottleneck(
    problem: AttentionProblem, machine: HardwareModel, bounds: Bounds
) -> tuple[Bounds, str]:
    """Return the bounds with twice as much of the binding resource, and a sentence on it."""
    binding = binding_resource(bounds, machine)
    doubled = _busier_unit(bounds) if binding is Resource.CORE else binding
    matrix, vector, dma = machine.matrix_unit, machine.vector_unit, machine.dma
    if doubled is Resource.MATRIX:
        what = "multiply-accumulates a cycle"
        matrix = dataclasses.replace(matrix, macs_per_cycle=2 * matrix.macs_per_cycle)
    elif doubled is Resource.VECTOR:
        what = "vector lanes"
        vector = dataclasses.replace(vector, lanes=2 * vector.lanes)
    else:
        what = "DRAM bandwidth"
        twice = 2 * dma.bandwidth_bytes_per_second
        dma = dataclasses.replace(dma, bandwidth_bytes_per_second=twice)
    faster = dataclasses.replace(machine, matrix_unit=matrix, vector_unit=vector, dma=dma)
    then = lower_bounds(problem, faster)
    gain = bounds.cycles / then.cycles if then.cycles else 1.0
    next_one = binding_resource(then, faster)
    binds = f"the {next_one} still binds" if next_one is binding else f"then the {next_one} binds"
    return then, (
        f"more {what}: x2 would bring the bound from {bounds.cycles:,.0f} to {then.cycles:,.0f} "
        f"cycles ({gain:.2f}x; {binds})"
    )


def _busier_unit(bounds: Bounds) -> Resource:
    is_matrix = bounds.matrix_cycles >= bounds.vector_cycles
    return Resource.MATRIX if is_matrix else Resource.VECTOR
