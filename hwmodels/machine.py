"""What a machine is: cores with a matrix unit and a vector unit, memories, and a DMA engine.

Pure description, every figure in its range. What a task costs on it is for ``cost.py`` to say, what
a whole program costs for ``simulate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from hocket.hwmodels.checks import shown

MAX_CORES = 1024
"""Schedules are laid out core by core; nothing on an edge board has more."""


RANGES: dict[str, tuple[float, float]] = {
    "clock_hz": (1.0, 1e15),
    "num_cores": (1, MAX_CORES),
    "element_bytes": (1, 16),
    "alignment_bytes": (1, 1 << 20),
    "leakage_watts": (0.0, 1e9),
    "block_rows": (1, 1 << 16),
    "block_columns": (1, 1 << 16),
    "macs_per_cycle": (1, 1 << 40),
    "lanes": (1, 1 << 30),
    "startup_cycles": (0, 10**9),
    "latency_cycles": (0, 10**12),
    "bandwidth_bytes_per_second": (1.0, 1e18),
    "port_bytes_per_cycle": (0.0, 1e12),
    "capacity_bytes": (1, 1 << 48),
    "max_lane_cycles": (0.0, 1e9),
    "subtract_lane_cycles": (0.0, 1e9),
    "exp_lane_cycles": (0.0, 1e9),
    "sum_lane_cycles": (0.0, 1e9),
    "divide_lane_cycles": (0.0, 1e9),
    "mask_lane_cycles": (0.0, 1e9),
    "rescale_lane_cycles": (0.0, 1e9),
    "exponentials_reads_per_element": (0.0, 1e9),
    "exponentials_writes_per_element": (0.0, 1e9),
    "divide_reads_per_element": (0.0, 1e9),
    "divide_writes_per_element": (0.0, 1e9),
    "pj_per_mac": (0.0, 1e12),
    "pj_per_lane_cycle": (0.0, 1e12),
    "read_pj_per_byte": (0.0, 1e12),
    "write_pj_per_byte": (0.0, 1e12),
}
"""The least and the most that each figure may be, by its name.

Wide enough for any machine, and narrow enough that bytes counted in 64 bits do not wrap, and that
cycles and joules are finite.
"""

MIN_PORT_BYTES_PER_CYCLE = 1e-6
"""Of a port that does hold its unit up."""


def _check_figures(part: MatrixUnit | VectorUnit | MemoryLevel | DmaEngine | HardwareModel) -> None:
    """Make sure that each figure of a machine, or of a part of one, is in its range.

    Raises:
        ValueError: One is not; the message names it.
    """
    for name, value in vars(part).items():
        if name not in RANGES:
            continue
        least, most = RANGES[name]
        # Asked this way round, NaN is found, too.
        if not value >= least:
            raise ValueError(f"{name} must be at least {least:,}, got {shown(value)}")
        if not value <= most:
            raise ValueError(f"{name} must be at most {most:,}, got {shown(value)}")


def _check_port(bytes_per_cycle: float) -> None:
    if 0 < bytes_per_cycle < MIN_PORT_BYTES_PER_CYCLE:
        raise ValueError(
            f"port_bytes_per_cycle must be at least {MIN_PORT_BYTES_PER_CYCLE}, or 0 for a port "
            f"that never holds its unit up; got {bytes_per_cycle}"
        )


@dataclass(frozen=True)
class MatrixUnit:
    """The unit that multiplies matrices, one block of the product at a time.

    Attributes:
        block_rows, block_columns: Size of the block of the product it makes at a time; a smaller
            remainder takes as long as a whole block.
        macs_per_cycle: Multiply-accumulates it completes a cycle.
        startup_cycles: Cycles from the start of a product to the full rate.
        port_bytes_per_cycle: Bytes its port to on-chip memory moves a cycle, reads and writes
            together; 0 for a port that never holds it up.
        pj_per_mac: Picojoules of one multiply-accumulate, memory not counted.
    """

    block_rows: int
    block_columns: int
    macs_per_cycle: int
    startup_cycles: int
    port_bytes_per_cycle: float
    pj_per_mac: float

    def __post_init__(self) -> None:
        _check_figures(self)
        _check_port(self.port_bytes_per_cycle)


@dataclass(frozen=True)
class VectorUnit:
    """The unit that works element by element and along rows.

    The cost of softmax is spelled out step by step, because it decides how much there is to gain
    from running both units at once.

    Attributes:
        lanes: Elements it works on at a time.
        startup_cycles: Cycles from the start of an operation to the full rate.
        max_lane_cycles, subtract_lane_cycles, exp_lane_cycles, sum_lane_cycles,
            divide_lane_cycles: Cycles one lane spends on one score, in each step of softmax.
        mask_lane_cycles: Cycles one lane spends to scale a score and add or select its mask.
        rescale_lane_cycles: Cycles one lane spends to multiply an element of the output by its
            row's factor and add another, as the online softmax asks for.
        exponentials_reads_per_element, exponentials_writes_per_element: How often the steps up to
            and with the sum read and write each score in on-chip memory.
        divide_reads_per_element, divide_writes_per_element: How often the division reads and writes
            each element.
        port_bytes_per_cycle: Bytes its port to on-chip memory moves a cycle, reads and writes
            together; 0 for a port that never holds it up.
        pj_per_lane_cycle: Picojoules of one lane for one cycle, memory not counted.
    """

    lanes: int
    startup_cycles: int
    max_lane_cycles: float
    subtract_lane_cycles: float
    exp_lane_cycles: float
    sum_lane_cycles: float
    divide_lane_cycles: float
    mask_lane_cycles: float
    rescale_lane_cycles: float
    exponentials_reads_per_element: float
    exponentials_writes_per_element: float
    divide_reads_per_element: float
    divide_writes_per_element: float
    port_bytes_per_cycle: float
    pj_per_lane_cycle: float

    def __post_init__(self) -> None:
        _check_figures(self)
        _check_port(self.port_bytes_per_cycle)

    @property
    def exponentials_lane_cycles(self) -> float:
        """Cycles one lane spends on one score up to and with the sum, masks not counted."""
        return (
            self.max_lane_cycles
            + self.subtract_lane_cycles
            + self.exp_lane_cycles
            + self.sum_lane_cycles
        )

    @property
    def softmax_lane_cycles(self) -> float:
        """Cycles one lane spends on one score in all steps of softmax, masks not counted."""
        return self.exponentials_lane_cycles + self.divide_lane_cycles


@dataclass(frozen=True)
class MemoryLevel:
    """One memory.

    Attributes:
        name: What its makers call it.
        capacity_bytes: Size; on-chip memory is shared by the cores.
        read_pj_per_byte, write_pj_per_byte: Picojoules to read or write one byte.
    """

    name: str
    capacity_bytes: int
    read_pj_per_byte: float
    write_pj_per_byte: float

    def __post_init__(self) -> None:
        _check_figures(self)


@dataclass(frozen=True)
class DmaEngine:
    """What moves tensors between the outer and the on-chip memory, for all cores.

    It works through the transfers of a program in order, one at a time on each port.

    Attributes:
        bandwidth_bytes_per_second: Bytes a port moves a second.
        latency_cycles: Cycles from the end of a transfer until its data can be used. The port is
            free meanwhile.
        has_separate_write_port: Whether stores have a port of their own, beside that for loads;
            else both take turns on one.
    """

    bandwidth_bytes_per_second: float
    latency_cycles: int
    has_separate_write_port: bool

    def __post_init__(self) -> None:
        _check_figures(self)


@dataclass(frozen=True)
class HardwareModel:
    """A machine of one or more equal cores.

    Attributes:
        name: Its name, as in ``--target``.
        description: One line for people.
        clock_hz: Cycles a second, of both units.
        num_cores: Cores, each with a matrix and a vector unit of its own.
        element_bytes: Bytes of a tensor element as the machine stores it; tensors of a model with
            wider elements are converted.
        has_concurrent_units: Whether the matrix and the vector unit of a core can work at the same
            time. A CPU's cannot: both are the same pipelines.
        alignment_bytes: Buffers start at multiples of this.
        leakage_watts: Power that flows whether or not anything happens.
        matrix_unit, vector_unit: The units of one core.
        outer_memory: Where tensors lie before and after (DRAM).
        on_chip_memory: What the units read and write.
        dma: The way between the two.
    """

    name: str
    description: str
    clock_hz: float
    num_cores: int
    element_bytes: int
    has_concurrent_units: bool
    alignment_bytes: int
    leakage_watts: float
    matrix_unit: MatrixUnit
    vector_unit: VectorUnit
    outer_memory: MemoryLevel
    on_chip_memory: MemoryLevel
    dma: DmaEngine

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        _check_figures(self)

    @property
    def bandwidth_bytes_per_cycle(self) -> float:
        """Bytes a DMA port moves a cycle."""
        return self.dma.bandwidth_bytes_per_second / self.clock_hz

    def __str__(self) -> str:
        matrix, vector = self.matrix_unit, self.vector_unit
        return (
            f"{self.name}: {self.num_cores} x ({matrix.macs_per_cycle} MAC, {vector.lanes} lanes), "
            f"{self.on_chip_memory.capacity_bytes / 1e6:.3g} MB on chip, "
            f"{self.dma.bandwidth_bytes_per_second / 1e9:.3g} GB/s, {self.clock_hz / 1e9:.3g} GHz"
        )
