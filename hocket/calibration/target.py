"""The machine that was measured, and its target file, which says where each figure is from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.calibration.measure import CalibrationError
from hocket.calibration.probes import HEAD_DIM
from hocket.hwmodels.loader import figures_by_path, format_target, load_target, parse_target
from hocket.runtime.files import atomic_file
from hocket.runtime.kernels.matrix import MAX_VECTORS, tile_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.calibration.measure import Measurements
    from hocket.calibration.system import Cache
    from hocket.hwmodels.machine import HardwareModel

_DRAM_LATENCY_SECONDS = 75e-9
_DIGITS = 4

_REASONS = {
    "element_bytes": "float32 kernels",
    "has_concurrent_units": "a CPU has no second unit",
    "alignment_bytes": "one cache line",
    "capacity_bytes": "the system does not tell",
    "pj_per_mac": "order of magnitude; energy is not measured",
    "pj_per_lane_cycle": "order of magnitude; energy is not measured",
    "read_pj_per_byte": "order of magnitude; energy is not measured",
    "write_pj_per_byte": "order of magnitude; energy is not measured",
    "leakage_watts": "energy is not measured",
    "port_bytes_per_cycle": "in the rates measured above",
}


@dataclass(frozen=True)
class Calibration:
    """A machine, and where each of its figures is from.

    Attributes:
        machine: As measured.
        base: The built-in machine from which figures were kept that cannot be measured.
        comments: What the file says beside each figure, by the path of its key.
    """

    machine: HardwareModel
    base: HardwareModel
    comments: Mapping[str, str]

    @property
    def measured_keys(self) -> tuple[str, ...]:
        """Paths of the keys that were measured, in the order of the file."""
        return tuple(key for key, text in self.comments.items() if text.startswith("[measured]"))

    def to_toml(self) -> str:
        """Return the text of a target file."""
        header = (
            f"The CPU of this computer, {self.machine.description}.\n"
            "Written by `hocket targets calibrate`. Figures marked [measured] were timed here, "
            "medians of repeated runs; [found] ones were asked of the system; [kept] ones stand as "
            f"in the built-in target {self.base.name!r}."
        )
        return format_target(self.machine, header, self.comments)


def calibrate(measurements: Measurements, name: str) -> Calibration:
    """Return the machine that was measured.

    What cannot be measured (energies, simple vector operations) is kept from the built-in ``host``.

    Raises:
        CalibrationError: The measurements contradict one another, or are those of no machine.
    """
    try:
        return _calibrate(measurements, name)
    except ValueError as error:
        raise CalibrationError(f"what was measured is out of range: {error}") from error


def _calibrate(measurements: Measurements, name: str) -> Calibration:
    base = load_target("host")
    cpu, cores = measurements.cpu, measurements.num_cores
    clock = _rounded(measurements.cycles_per_second)
    lane_rate = cpu.vector_lanes * clock
    vector_unit = dataclasses.replace(
        base.vector_unit,
        lanes=cpu.vector_lanes,
        max_lane_cycles=_rounded(lane_rate / measurements.maxima_per_second),
        subtract_lane_cycles=0.0,
        exp_lane_cycles=_rounded(lane_rate / measurements.exponentials_per_second),
        sum_lane_cycles=0.0,
    )
    matrix_unit = dataclasses.replace(
        base.matrix_unit,
        block_rows=MAX_VECTORS * cpu.vector_lanes,
        block_columns=tile_rows(cpu.vector_lanes, cpu.num_vector_registers),
        macs_per_cycle=max(1, round(_macs_per_second(measurements) / clock)),
    )
    cache_bytes = _cache_bytes(measurements.caches, cores)
    memory_bytes = measurements.memory_bytes
    machine = dataclasses.replace(
        base,
        name=name,
        description=f"{cpu.name}, {cores} core(s) of {cpu.vector_lanes} float32 lanes, measured",
        clock_hz=clock,
        num_cores=cores,
        matrix_unit=matrix_unit,
        vector_unit=vector_unit,
        outer_memory=dataclasses.replace(
            base.outer_memory, capacity_bytes=memory_bytes or base.outer_memory.capacity_bytes
        ),
        on_chip_memory=dataclasses.replace(
            base.on_chip_memory, capacity_bytes=cache_bytes or base.on_chip_memory.capacity_bytes
        ),
        dma=dataclasses.replace(
            base.dma,
            bandwidth_bytes_per_second=_rounded(measurements.read_bytes_per_second),
            latency_cycles=round(_DRAM_LATENCY_SECONDS * clock),
        ),
    )
    return Calibration(machine, base, _comments(machine, measurements))


def write_target(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a target file whole, or not at all.

    Raises:
        OSError: The folder is missing or cannot be written to.
    """
    text = calibration.to_toml()
    # What is written must load again; better to fail before there is a file.
    parse_target(text, str(path))
    with atomic_file(path) as file:
        file.write(text.encode())


def _macs_per_second(measurements: Measurements) -> float:
    """Return what the kernels reach in both products: the whole attention without softmax."""
    of_softmax = 1 / measurements.maxima_per_second + 1 / measurements.exponentials_per_second
    of_products = 1 / measurements.scores_per_second - of_softmax
    if of_products <= 0:
        raise CalibrationError(
            "softmax alone took longer than a whole attention, "
            f"{of_softmax * 1e9:.3g} ns a score, not {1e9 / measurements.scores_per_second:.3g}; "
            "something else kept the CPU busy: end it and measure again"
        )
    return 2 * HEAD_DIM / of_products


def _cache_bytes(caches: tuple[Cache, ...], num_cores: int) -> int | None:
    """Return the second-level caches of these cores and their share of the levels behind."""
    total = 0.0
    for cache in caches:
        share = num_cores / cache.num_sharers
        if cache.level == 2:
            total += cache.size_bytes * max(1.0, share)
        elif cache.level > 2:
            total += cache.size_bytes * share
    return int(total) or None


def _comments(machine: HardwareModel, measurements: Measurements) -> dict[str, str]:
    """Return where each figure of a calibrated machine is from, by the path of its key."""
    comments = {
        key: f"[kept] {_REASONS.get(key.rpartition('.')[2], 'not measured')}"
        for key, value in figures_by_path(machine).items()
        if not isinstance(value, str)
    }
    comments |= {
        "clock_hz": "[measured] by operations that wait for one another",
        "num_cores": "[found] as many were measured together",
        "matrix_unit.block_rows": "[found] register tile of the kernels for this vector unit",
        "matrix_unit.block_columns": "[found] same",
        "matrix_unit.macs_per_cycle": (
            f"[measured] {_macs_per_second(measurements) / 1e9:.3g} G a second and core, in a "
            "whole attention"
        ),
        "vector_unit.lanes": "[found] float32 lanes of a vector register",
        "vector_unit.max_lane_cycles": (
            f"[measured] {measurements.maxima_per_second / 1e9:.3g} G scores a second"
        ),
        "vector_unit.subtract_lane_cycles": "[measured] in that of the exponential",
        "vector_unit.exp_lane_cycles": (
            f"[measured] {measurements.exponentials_per_second / 1e9:.3g} G scores a second; "
            "subtraction, sum too"
        ),
        "vector_unit.sum_lane_cycles": "[measured] in that of the exponential",
        "dma.bandwidth_bytes_per_second": "[measured] all cores reading one large array",
        "dma.latency_cycles": f"[kept] {_DRAM_LATENCY_SECONDS * 1e9:.0f} ns, hidden by prefetch",
    }
    if measurements.memory_bytes:
        comments["outer_memory.capacity_bytes"] = "[found] memory of this computer"
    if _cache_bytes(measurements.caches, measurements.num_cores):
        comments["on_chip_memory.capacity_bytes"] = (
            "[found] second-level caches, share of those behind"
        )
    return comments


def _rounded(value: float) -> float:
    """Return a measured value without digits that say nothing."""
    return float(f"{value:.{_DIGITS}g}")
