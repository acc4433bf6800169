"""Totals of a program on a machine, and what they add up to over a whole model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.errors import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Estimate:
    """What a program is predicted to take.

    Attributes:
        cycles: From the first task's start to the last one's end.
        seconds: The same at the machine's clock.
        joules: Compute, memories and leakage together.
        dram_bytes: Bytes that cross the DMA port, both ways.
        peak_on_chip_bytes: One past the highest byte of on-chip memory in use.
        matrix_busy_cycles, vector_busy_cycles: Cycles of work of each kind, over all cores.
        dma_busy_cycles: Cycles in which the DMA port moves data.
        bound_cycles: A lower bound: no program for this problem on this machine is faster.
        num_cores: Cores over which the busy cycles are spread.
        is_simulated: Whether the totals come from a simulated program; else from closed forms.
    """

    cycles: float
    seconds: float
    joules: float
    dram_bytes: int
    peak_on_chip_bytes: int
    matrix_busy_cycles: float
    vector_busy_cycles: float
    dma_busy_cycles: float
    bound_cycles: float
    num_cores: int
    is_simulated: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ProgramError(f"estimate: {field.name} must be finite and >= 0, got {value}")

    @property
    def matrix_utilization(self) -> float:
        """Share of the time in which the matrix units work, 0 to 1."""
        return self._share(self.matrix_busy_cycles, self.num_cores)

    @property
    def vector_utilization(self) -> float:
        """Share of the time in which the vector units work, 0 to 1."""
        return self._share(self.vector_busy_cycles, self.num_cores)

    @property
    def dma_utilization(self) -> float:
        """Share of the time in which the DMA port moves data, 0 to 1."""
        return self._share(self.dma_busy_cycles, 1)

    def _share(self, busy_cycles: float, num_units: int) -> float:
        return busy_cycles / (self.cycles * num_units) if self.cycles else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with one key a field, and the utilizations."""
        return dataclasses.asdict(self) | {
            "matrix_utilization": self.matrix_utilization,
            "vector_utilization": self.vector_utilization,
            "dma_utilization": self.dma_utilization,
        }

    @classmethod
    def from_json(cls, fields: object) -> Estimate:
        """Build an estimate from a JSON object that nobody has checked.

        Raises:
            ProgramError: A key is missing or holds what it may not.
        """
        if not isinstance(fields, dict):
            raise ProgramError(f"an estimate must be an object, got {fields!r}")
        arguments: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = fields.get(field.name)
            wanted = (bool,) if field.name == "is_simulated" else (int, float)
            if type(value) not in wanted:
                raise ProgramError(f"estimate: {field.name} is {value!r}")
            arguments[field.name] = value
        return cls(**arguments)

    def __str__(self) -> str:
        kind = "simulated" if self.is_simulated else "bound"
        return (
            f"{self.cycles:,.0f} cycles ({self.seconds * 1e3:.3g} ms, {kind}), "
            f"{self.joules * 1e3:.3g} mJ, {self.dram_bytes / 1e6:.3g} MB DRAM, "
            f"peak {self.peak_on_chip_bytes / 1e3:.4g} kB on chip"
        )


def add_estimates(estimates: Iterable[Estimate]) -> Estimate:
    """Return the estimate of programs run one after the other: sums, and the highest peak."""
    parts = list(estimates)
    if not parts:
        return Estimate(0.0, 0.0, 0.0, 0, 0, 0.0, 0.0, 0.0, 0.0, 1, is_simulated=True)
    return Estimate(
        cycles=sum(part.cycles for part in parts),
        seconds=sum(part.seconds for part in parts),
        joules=sum(part.joules for part in parts),
        dram_bytes=sum(part.dram_bytes for part in parts),
        peak_on_chip_bytes=max(part.peak_on_chip_bytes for part in parts),
        matrix_busy_cycles=sum(part.matrix_busy_cycles for part in parts),
        vector_busy_cycles=sum(part.vector_busy_cycles for part in parts),
        dma_busy_cycles=sum(part.dma_busy_cycles for part in parts),
        bound_cycles=sum(part.bound_cycles for part in parts),
        num_cores=max(part.num_cores for part in parts),
        is_simulated=all(part.is_simulated for part in parts),
    )
