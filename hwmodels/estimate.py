"""Totals of a program on a machine, and what they add up to over a whole model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.tasks import TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterable

_SPECIAL = ("dram_bytes_by_tensor", "is_simulated")


@dataclass(frozen=True)
class Estimate:
    """What a program is predicted to take.

    Attributes:
        cycles: From the first task's start to the last one's end.
        seconds: The same at the machine's clock.
        compute_joules, on_chip_joules, dram_joules, leakage_joules: Energy of arithmetic, of
            on-chip and of outer memory, and of what flows all the time.
        dram_bytes_by_tensor: Bytes that cross the DMA ports, both ways, as (tensor, bytes) pairs.
        peak_on_chip_bytes: One past the highest byte of on-chip memory in use.
        matrix_busy_cycles, vector_busy_cycles: Cycles of work of each kind, over all cores.
        load_busy_cycles, store_busy_cycles: Cycles in which a DMA port moves data in and out.
        bound_cycles: A lower bound: no program for this problem on this machine is faster.
        num_cores: Cores over which the busy cycles are spread.
        num_dma_ports: 1 if loads and stores share a port, else 2.
        is_simulated: Whether all of the program was simulated; else the totals follow from the
            steady part of it.
    """

    cycles: float
    seconds: float
    compute_joules: float
    on_chip_joules: float
    dram_joules: float
    leakage_joules: float
    dram_bytes_by_tensor: tuple[tuple[str, int], ...]
    peak_on_chip_bytes: int
    matrix_busy_cycles: float
    vector_busy_cycles: float
    load_busy_cycles: float
    store_busy_cycles: float
    bound_cycles: float
    num_cores: int
    num_dma_ports: int = 1
    is_simulated: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in _SPECIAL:
                continue
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ProgramError(f"estimate: {field.name} must be finite and >= 0, got {value}")
        for tensor, count in self.dram_bytes_by_tensor:
            if tensor not in TENSORS or count < 0:
                raise ProgramError(f"estimate: dram_bytes_by_tensor has {tensor!r}: {count}")

    @property
    def joules(self) -> float:
        """Energy of all kinds."""
        return self.compute_joules + self.on_chip_joules + self.dram_joules + self.leakage_joules

    @property
    def dram_bytes(self) -> int:
        """Bytes that cross the DMA ports, both ways."""
        return sum(count for _, count in self.dram_bytes_by_tensor)

    @property
    def dma_busy_cycles(self) -> float:
        """Cycles in which the busier DMA port moves data; with one port, the two together."""
        if self.num_dma_ports > 1:
            return max(self.load_busy_cycles, self.store_busy_cycles)
        return self.load_busy_cycles + self.store_busy_cycles

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
        """Share of the time in which the busier DMA port moves data, 0 to 1."""
        return self._share(self.dma_busy_cycles, 1)

    @property
    def of_bound(self) -> float:
        """Cycles over the lower bound; 1 is the limit."""
        return self.cycles / self.bound_cycles if self.bound_cycles else 1.0

    def _share(self, busy_cycles: float, num_units: int) -> float:
        return busy_cycles / (self.cycles * num_units) if self.cycles else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with one key a field, the sums and the utilizations."""
        return dataclasses.asdict(self) | {
            "dram_bytes_by_tensor": dict(self.dram_bytes_by_tensor),
            "joules": self.joules,
            "dram_bytes": self.dram_bytes,
            "dma_busy_cycles": self.dma_busy_cycles,
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
            wanted: tuple[type, ...] = (int, float)
            if field.name == "is_simulated":
                wanted = (bool,)
            elif field.name == "dram_bytes_by_tensor":
                value, wanted = _pairs(value), (tuple,)
            if type(value) not in wanted:
                raise ProgramError(f"estimate: {field.name} is {value!r}")
            arguments[field.name] = value
        return cls(**arguments)

    def __str__(self) -> str:
        kind = "simulated" if self.is_simulated else "extrapolated"
        return (
            f"{self.cycles:,.0f} cycles ({self.seconds * 1e3:.3g} ms, {kind}), "
            f"{self.joules * 1e3:.3g} mJ, {self.dram_bytes / 1e6:.3g} MB DRAM, "
            f"peak {self.peak_on_chip_bytes / 1e3:.4g} kB on chip"
        )


def add_estimates(estimates: Iterable[Estimate]) -> Estimate:
    """Return the estimate of programs run one after the other: sums, and the highest peak."""
    parts = list(estimates)
    by_tensor: dict[str, int] = {}
    for part in parts:
        for tensor, count in part.dram_bytes_by_tensor:
            by_tensor[tensor] = by_tensor.get(tensor, 0) + count
    highest = {"peak_on_chip_bytes": 0, "num_cores": 1, "num_dma_ports": 1}
    totals: dict[str, Any] = {
        "dram_bytes_by_tensor": tuple(by_tensor.items()),
        "is_simulated": all(part.is_simulated for part in parts),
    }
    for field in dataclasses.fields(Estimate):
        values = [getattr(part, field.name) for part in parts]
        if field.name in highest:
            totals[field.name] = max(values, default=highest[field.name])
        elif field.name not in _SPECIAL:
            totals[field.name] = math.fsum(values)
    return Estimate(**totals)


def _pairs(value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict) or any(type(count) is not int for count in value.values()):
        raise ProgramError(f"estimate: dram_bytes_by_tensor is {value!r}")
    return tuple((str(tensor), count) for tensor, count in value.items())
