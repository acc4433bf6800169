"""What this CPU can do, measured with the kernels' own tiles, and the target that says so.

Three steps, each of its own: ``measure`` times, ``calibrate`` turns timings into a machine, and
``write_target`` writes that to a file that ``--target`` takes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import float32, int64, intp, njit, void

from hocket.diagnosis import usable_cores
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import figures_by_path, format_target, load_target, parse_target
from hocket.hwmodels.machine import MAX_CORES, HardwareModel
from hocket.runtime.cpu import CpuFeatures, detect_cpu
from hocket.runtime.files import atomic_file
from hocket.runtime.kernels import vector
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.kernels.matrix import MAX_VECTORS, tile_rows
from hocket.runtime.kernels.parameters import AttentionParameters
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Timer = Callable[[], float]
    Progress = Callable[[str, int, int], None]

REPEATS = 51
QUICK_REPEATS = 11

# Of the attention that is timed, as in BERT. A multiple of the queries of a register tile for all
# vector widths, so that no tile is cut short.
HEAD_DIM = 64
_QUERY_LENGTH = 480
_KV_LENGTH = 512
_HEADS_A_CORE = 4

# A run takes a millisecond or so: what else the computer does then hits some runs, not all, and the
# median passes over it. It is cut into parts, which cores take one by one, so that none waits for
# one that comes late.
_PARTS_A_CORE = 4

# Scores of a column that stays in the first-level cache, and how often a part works through it.
_COLUMN_SCORES = 1 << 12
_COLUMN_TURNS = 1 << 10

_CHAIN_TURNS = 1 << 20
# A turn is an addition and an exclusive or, each waiting for the one before: a cycle each on any
# CPU of today.
_CYCLES_A_TURN = 2

_READ_BYTES = 1 << 29
_QUICK_READ_BYTES = 1 << 27
_MAX_READ_BYTES = 1 << 31
_CHUNK_BYTES = 1 << 22

_DRAM_LATENCY_SECONDS = 75e-9
_DIGITS = 4

# Of the first core, on Linux; a virtual machine may hide it.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class CalibrationError(RuntimeError):
    """A CPU that cannot be measured as asked for, or measurements that contradict one another."""


@dataclass(frozen=True)
class Probe:
    """A piece of work to be timed.

    Attributes:
        name: What it measures, for people.
        amount: How much work a run does: operations or bytes.
        run: Does it once.
        operands: Arrays that it knows by their addresses, kept alive here.
    """

    name: str
    amount: float
    run: Callable[[], object]
    operands: tuple[object, ...] = ()


@dataclass(frozen=True)
class Cache:
    """One level of the data caches.

    Attributes:
        level: 1 for the nearest.
        size_bytes: Its size.
        num_sharers: Cores, or threads of cores, that share it.
    """

    level: int
    size_bytes: int
    num_sharers: int


@dataclass(frozen=True)
class Measurements:
    """What was found out about this CPU.

    Attributes:
        cpu: Its vector unit, as LLVM sees it.
        num_cores: Cores that worked at a time.
        cycles_per_second: Of the clock, while one core works.
        scores_per_second: Scores of a whole attention with ``HEAD_DIM`` columns, both products and
            softmax, that a core works through.
        maxima_per_second: Scores that a core takes the maximum of.
        exponentials_per_second: Scores that a core subtracts the maximum from, exponentiates and
            sums.
        read_bytes_per_second: Bytes that all cores together read from memory.
        caches: Of the first core; empty if the system does not tell.
        memory_bytes: Of the machine; None if the system does not tell.

    Raises:
        CalibrationError: A rate is not a positive number.
    """

    cpu: CpuFeatures
    num_cores: int
    cycles_per_second: float
    scores_per_second: float
    maxima_per_second: float
    exponentials_per_second: float
    read_bytes_per_second: float
    caches: tuple[Cache, ...]
    memory_bytes: int | None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_per_second") and not (math.isfinite(value) and value > 0):
                raise CalibrationError(f"{name} must be positive, got {value}; measure again")


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


def measure(
    num_cores: int = 0,
    *,
    is_quick: bool = False,
    timer: Timer = time.perf_counter,
    progress: Progress | None = None,
) -> Measurements:
    """Time this CPU. Nothing else should run meanwhile; it takes some seconds.

    Args:
        num_cores: Cores to use; 0 for all that this process may run on.
        is_quick: Repeat less and read less memory.
        timer: Returns the seconds since some moment.
        progress: Called before each probe with its name, its place and how many there are.

    Raises:
        CalibrationError: More cores are asked for than there are, or a rate is not positive.
    """
    usable = min(usable_cores(), MAX_CORES)
    num_cores = num_cores or usable
    if not 1 <= num_cores <= usable:
        raise CalibrationError(
            f"want 1 to {usable} cores, as many as this process may run on, got {num_cores}"
        )
    cpu, caches = detect_cpu(), read_caches()
    with WorkerPool(num_cores) as pool:
        rates = take_rates(
            make_probes(cpu, caches, pool, is_quick=is_quick),
            QUICK_REPEATS if is_quick else REPEATS,
            timer,
            progress,
        )
    return Measurements(
        cpu=cpu,
        num_cores=num_cores,
        cycles_per_second=rates["cycles"],
        scores_per_second=rates["scores"] / num_cores,
        maxima_per_second=rates["maxima"] / num_cores,
        exponentials_per_second=rates["exponentials"] / num_cores,
        read_bytes_per_second=rates["read_bytes"],
        caches=caches,
        memory_bytes=_memory_bytes(),
    )


def take_rates(
    probes: Mapping[str, Probe],
    repeats: int,
    timer: Timer = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the work that each probe does a second, by its key.

    A rate comes from the median of ``repeats`` runs, after one that is not timed.
    """
    rates = {}
    for place, (key, probe) in enumerate(probes.items()):
        if progress is not None:
            progress(probe.name, place, len(probes))
        probe.run()
        seconds = []
        for _ in range(repeats):
            before = timer()
            probe.run()
            seconds.append(timer() - before)
        median = statistics.median(seconds)
        rates[key] = probe.amount / median if median > 0 else math.inf
    return rates


def make_probes(
    cpu: CpuFeatures, caches: tuple[Cache, ...], pool: WorkerPool, *, is_quick: bool
) -> dict[str, Probe]:
    """Return what ``measure`` times, but for the clock on all cores of the pool.

    Kernels are compiled now, unless the kernel cache has them.
    """
    return {
        "cycles": _clock_probe(),
        **_vector_probes(cpu.vector_lanes, pool),
        "scores": _attention_probe(cpu, pool),
        "read_bytes": _read_probe(pool, _bytes_to_read(caches, is_quick=is_quick)),
    }


def calibrate(measurements: Measurements, name: str) -> Calibration:
    """Return the machine that was measured.

    What cannot be measured (energies, simple vector operations) is kept from the built-in ``host``.

    Raises:
        CalibrationError: The measurements contradict one another.
    """
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


def read_caches(folder: Path = _CACHES) -> tuple[Cache, ...]:
    """Return the data caches of a core, nearest first; empty if the system does not tell.

    Args:
        folder: Where Linux describes the caches of one core.
    """
    caches = []
    for entry in sorted(folder.glob("index*")):
        try:
            texts = {
                name: (entry / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            }
            size = _parse_size(texts["size"])
            cache = Cache(int(texts["level"]), size, _count_cpus(texts["shared_cpu_list"]))
        except (OSError, ValueError):
            continue
        if texts["type"] != "Instruction" and cache.size_bytes > 0:
            caches.append(cache)
    return tuple(sorted(caches, key=lambda cache: cache.level))


def _clock_probe() -> Probe:
    @njit(int64(int64, int64, int64, int64), nogil=True)
    def wait_for_each_other(start: int, addend: int, mask: int, turns: int) -> int:
        value = start
        for _ in range(turns):
            value = (value + addend) ^ mask
        return value

    return Probe(
        "clock",
        _CHAIN_TURNS * _CYCLES_A_TURN,
        lambda: wait_for_each_other(1, 3, 0x5555, _CHAIN_TURNS),
    )


def _vector_probes(lanes: int, pool: WorkerPool) -> dict[str, Probe]:
    """Return the probes of softmax: the kernels' tiles, on a column that stays in cache."""
    raise_largest = vector.largest_tile(lanes)
    exponentiate = vector.exponential_tile(lanes)

    @njit(void(*[intp] * 5), nogil=True)
    def take_maxima(scores: int, stride: int, rows: int, largest: int, turns: int) -> None:
        for _ in range(turns):
            raise_largest(scores, stride, rows, largest)

    @njit(void(*[intp] * 6), nogil=True)
    def take_exponentials(
        scores: int, stride: int, rows: int, shift: int, sums: int, turns: int
    ) -> None:
        for _ in range(turns):
            exponentiate(scores, stride, rows, shift, sums)

    rows = _COLUMN_SCORES // lanes
    stride = lanes * 4
    # Exponentials take the place of scores. With a shift of 1 they settle near 1.
    columns = np.zeros((pool.num_threads, rows, lanes), np.float32)
    shift = np.ones(lanes, np.float32)
    # Far enough apart that no two cores write to one line of cache.
    results = np.zeros((pool.num_threads, 64), np.float32)
    operands = (columns, shift, results)
    # Asked for once: it costs a microsecond.
    column_at = [column.ctypes.data for column in columns]
    result_at = [result.ctypes.data for result in results]
    shift_at = shift.ctypes.data

    def maxima(worker: int, _part: int) -> None:
        take_maxima(column_at[worker], stride, rows, result_at[worker], _COLUMN_TURNS)

    def exponentials(worker: int, _part: int) -> None:
        take_exponentials(
            column_at[worker], stride, rows, shift_at, result_at[worker], _COLUMN_TURNS
        )

    parts = _PARTS_A_CORE * pool.num_threads
    amount = parts * _COLUMN_TURNS * _COLUMN_SCORES
    return {
        "maxima": Probe(
            "maxima of scores", amount, lambda: _run_parts(pool, parts, maxima), operands
        ),
        "exponentials": Probe(
            "exponentials of scores",
            amount,
            lambda: _run_parts(pool, parts, exponentials),
            operands,
        ),
    }


def _attention_probe(cpu: CpuFeatures, pool: WorkerPool) -> Probe:
    heads = _HEADS_A_CORE * pool.num_threads
    kernel = make_attention_kernel(_attention_parameters(heads), cpu)
    generator = np.random.default_rng(0)

    def draw(length: int) -> NDArray[np.float32]:
        return generator.standard_normal((1, heads, length, HEAD_DIM), dtype=np.float32)

    query, key, value = draw(_QUERY_LENGTH), draw(_KV_LENGTH), draw(_KV_LENGTH)
    bound = kernel.bind(
        query,
        key,
        value,
        mask=None,
        output=np.empty_like(query),
        scratch=np.zeros(kernel.scratch_bytes(pool.num_threads), np.uint8),
    )
    amount = heads * _QUERY_LENGTH * _KV_LENGTH
    return Probe("attention", amount, lambda: bound.run(pool))


def _attention_parameters(heads: int) -> AttentionParameters:
    return AttentionParameters(
        batch=1,
        query_heads=heads,
        kv_heads=heads,
        query_length=_QUERY_LENGTH,
        kv_length=_KV_LENGTH,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        dtype=DType.FLOAT32,
        scale=HEAD_DIM**-0.5,
        mask="none",
        mask_shape=None,
        masked_value=-math.inf,
        masked_rows="nan",
        is_causal=False,
        query_layout="bhnd",
        key_layout="bhnd",
        value_layout="bhnd",
        output_layout="bhnd",
        query_rows=_QUERY_LENGTH // 2,
        kv_columns=_KV_LENGTH,
    )


def _bytes_to_read(caches: tuple[Cache, ...], *, is_quick: bool) -> int:
    """Return how large an array must be that hardly any of it stays in a cache."""
    largest = max((cache.size_bytes for cache in caches), default=0)
    wanted = max(_QUICK_READ_BYTES if is_quick else _READ_BYTES, 4 * largest)
    return min(wanted, _MAX_READ_BYTES)


def _read_probe(pool: WorkerPool, size_bytes: int) -> Probe:
    @njit(float32(float32[::1]), nogil=True, fastmath=True)
    def add_up(chunk: NDArray[np.float32]) -> np.float32:
        total = np.float32(0)
        for index in range(chunk.size):
            total += chunk[index]
        return total

    # Ones, not zeros: memory that was never written to need not be there.
    data = np.ones(size_bytes // 4, np.float32)
    chunks = np.split(data, range(_CHUNK_BYTES // 4, data.size, _CHUNK_BYTES // 4))
    return Probe(
        "reading memory",
        data.nbytes,
        lambda: _run_parts(pool, len(chunks), lambda _worker, part: add_up(chunks[part])),
    )


def _run_parts(pool: WorkerPool, parts: int, function: Callable[[int, int], object]) -> None:
    """Call ``function(worker, part)`` for each part, on whichever worker is free."""
    places = itertools.count()

    def work(worker: int) -> None:
        while (part := next(places)) < parts:
            function(worker, part)

    pool.run(work, parts)


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


def _rounded(value: float) -> float:
    """Return a measured value without digits that say nothing."""
    return float(f"{value:.{_DIGITS}g}")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _parse_size(text: str) -> int:
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * factors[text[-1]] if text[-1:] in factors else int(text)


def _count_cpus(text: str) -> int:
    """Count the CPUs of a list as Linux writes it, ``0-3,8``."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    if count < 1:
        raise ValueError(f"no CPU in {text!r}")
    return count
