"""The least on-chip memory that live ranges can do with, found and proved by a solver.

OR-Tools is large and optional, the extra ``exact``: it is loaded when a solver is asked for.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.compiler.attention.memory.liveness import max_live_bytes
from hocket.compiler.attention.memory.placement import buffer_bytes, peak_bytes, place_best
from hocket.compiler.errors import InfeasibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from ortools.sat.python import cp_model

    from hocket.compiler.attention.memory.liveness import LiveRange
    from hocket.hwmodels.machine import HardwareModel

    Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Effort:
    """How long a solver may work.

    Attributes:
        work: In the solver's own units of deterministic time, of the order of a second each. With
            this limit alone the same question has the same answer on every run.
        seconds: By the clock, for those who would rather be in time than repeatable.
    """

    work: float = 10.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.work <= 0:
            raise ValueError(f"work must be positive, got {self.work}")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")


@dataclass(frozen=True)
class PlacementLimits:
    """What exact placement takes on.

    Attributes:
        max_buffers: Buffers that are alive at some moment.
        effort: How long the solver may work.
    """

    max_buffers: int = 200
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, eq=False)
class ExactPlacement:
    """A placement, and how much less memory another one could take at most.

    Attributes:
        places: First byte and size of each buffer, as in ``Program.places``.
        peak_bytes: One past the highest byte in use.
        bound_bytes: No placement takes less, proved.
    """

    places: Longs
    peak_bytes: int
    bound_bytes: int

    @property
    def is_optimal(self) -> bool:
        """Whether no placement takes less."""
        return self.peak_bytes == self.bound_bytes


def load_solver() -> Any:
    """Return the module of OR-Tools' CP-SAT solver.

    Raises:
        ImportError: It is not installed; the message says how to mend that.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise ImportError(
            "exact schedules and placements need OR-Tools, which is not installed: "
            "pip install 'hocket[exact]'"
        ) from error
    return cp_model


def make_solver(effort: Effort, seed: int, *, packs: bool = False) -> cp_model.CpSolver:
    """Return a solver that gives the same answer on every run, if the clock does not stop it.

    It works on one thread, and gives its ways of searching turns.

    Args:
        effort: How long it may work.
        seed: Of its chances.
        packs: Whether the model packs rectangles. Then it does without large neighbourhoods, which
            end sooner or later from run to run where these are packed.
    """
    solver: cp_model.CpSolver = load_solver().CpSolver()
    parameters = solver.parameters
    parameters.num_workers = 1
    parameters.interleave_search = True
    parameters.use_lns = not packs
    parameters.random_seed = seed
    parameters.max_deterministic_time = effort.work
    if effort.seconds is not None:
        parameters.max_time_in_seconds = effort.seconds
    return solver


def place_exactly(
    buffers: Longs,
    ranges: Sequence[LiveRange | None],
    machine: HardwareModel,
    limits: PlacementLimits | None = None,
    seed: int = 0,
) -> ExactPlacement:
    """Place buffers in the least memory.

    Args:
        buffers: ``Schedule.buffers``.
        ranges: When each is needed; one that never is lies at address 0.
        machine: Its element size, alignment and on-chip capacity count.
        limits: What to take on.
        seed: Of the solver.

    Raises:
        ValueError: There are more buffers than the limits allow.
        InfeasibleError: No placement was found that fits the machine.
        ImportError: OR-Tools is not installed.
    """
    limits = limits or PlacementLimits()
    sizes = buffer_bytes(buffers, machine)
    alive = [(index, live) for index, live in enumerate(ranges) if live is not None]
    if len(alive) > limits.max_buffers:
        raise ValueError(
            f"exact placement takes up to {limits.max_buffers} buffers, got {len(alive)}; "
            "raise PlacementLimits.max_buffers and wait longer, or use place_best"
        )
    capacity = machine.on_chip_memory.capacity_bytes
    capacity -= capacity % machine.alignment_bytes
    # Places found without a look at the capacity are a good start even if they need too much.
    start = place_best(buffers, ranges, _with_capacity(machine, max(sum(sizes), 1)))
    least = max([max_live_bytes(sizes, ranges), *sizes])
    if least > capacity:
        raise _does_not_fit(least, machine, "alive at one moment")
    if peak_bytes(start) == least:
        return ExactPlacement(start, least, least)
    # In an optimum each buffer lies on others or on the ground: addresses are sums of sizes.
    unit = math.gcd(*(sizes[index] for index, _ in alive))
    is_start_legal = peak_bytes(start) <= capacity
    most = min(peak_bytes(start), capacity) // unit
    cp = load_solver()
    model = cp.CpModel()
    peak = model.new_int_var(-(-least // unit), most, "peak")
    times, spaces, offsets = [], [], []
    for index, live in alive:
        size, length = sizes[index] // unit, live.last + 1 - live.first
        offset = model.new_int_var(0, most - size, f"offset {index}")
        times.append(model.new_fixed_size_interval_var(live.first, length, f"time {index}"))
        spaces.append(model.new_fixed_size_interval_var(offset, size, f"space {index}"))
        model.add(offset + size <= peak)
        offsets.append(offset)
        if is_start_legal:
            model.add_hint(offset, int(start[index, 0]) // unit)
    model.add_no_overlap_2d(times, spaces)
    model.minimize(peak)
    solver = make_solver(limits.effort, seed, packs=True)
    status = solver.solve(model)
    if status in (cp.OPTIMAL, cp.FEASIBLE):
        places = start.copy()
        for (index, _), offset in zip(alive, offsets, strict=True):
            places[index, 0] = solver.value(offset) * unit
        bound = round(solver.best_objective_bound) * unit
        return ExactPlacement(places, peak_bytes(places), min(bound, peak_bytes(places)))
    if is_start_legal:
        return ExactPlacement(start, peak_bytes(start), least)
    why = "no other exists in less" if status == cp.INFEASIBLE else "no other was found in time"
    raise _does_not_fit(peak_bytes(start), machine, f"the best placement known; {why}")


def _with_capacity(machine: HardwareModel, capacity: int) -> HardwareModel:
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=capacity)
    return dataclasses.replace(machine, on_chip_memory=memory)


def _does_not_fit(demand: int, machine: HardwareModel, what: str) -> InfeasibleError:
    capacity = machine.on_chip_memory.capacity_bytes
    return InfeasibleError(
        "no placement of these buffers on chip",
        (
            f"resource: {machine.on_chip_memory.name} of {machine.name}",
            f"demand: {demand} bytes ({what})",
            f"bound: {capacity} bytes",
            f"gap: {max(demand - capacity, 0)} bytes",
            "levers: smaller tiles, fewer of them alive at once",
        ),
    )
