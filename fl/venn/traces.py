"""When devices check in, how long they stay, how fast they are, and what they are.

Traces are FedScale's and AI-Benchmark's, as Venn's evaluation uses them: a device checks in at the
start of each session; check-ins are numbered by time, and number ``i`` has the ``i``-th capacity
and phone model, in turns. A task of 30 s on the average device takes
``30 * computation / 78 + 20 * 13736 / communication`` seconds; sessions are 80 s longer than in the
trace, which is too short of devices without.
"""

from __future__ import annotations

import gzip
import io
import pickle
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.fl.venn.event_state import Sessions
from hocket.fl.venn.workloads import CLASSES, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

PERIOD_SECONDS = 5 * 86400.0
"""Venn's simulator repeats the first five days of the trace."""

NUM_FEDSCALE_CLIENTS = 107_749
MEAN_COMPUTATION, MEAN_COMMUNICATION = 78.0, 13736.0
WORK_SECONDS, TRANSFER_SECONDS, LONGER_SECONDS = 30.0, 20.0, 80.0
MAX_SHIFT_SECONDS = 1800

CHECKINS_A_PERIOD = 1_524_245
"""Of a surrogate with as many sessions as Venn's trace file: 212 a minute."""

BUSY_SCALE = 1.4
"""Check-ins, times ``CHECKINS_A_PERIOD``, with which Venn's published waiting times come out."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Sessions of a population of devices, in a period that repeats.

    Attributes:
        starts, ends: Of the sessions, seconds; starts ascend from 0 to the period.
        task_seconds: How long a session's device takes for a task.
        atoms: Device type of each session.
        eligible: Whether a class may use a type, ``[classes, types]``.
        period_seconds: After which it repeats.
        origin: Where it is from, in a sentence.
    """

    starts: Floats
    ends: Floats
    task_seconds: Floats
    atoms: NDArray[np.int32]
    eligible: Bools
    period_seconds: float
    origin: str

    def __post_init__(self) -> None:
        if not self.starts.size:
            raise ConfigError("a trace wants 1 or more sessions, got none")
        if np.any(np.diff(self.starts) < 0) or self.starts[0] < 0:
            raise ConfigError("the sessions of a trace must ascend by their starts, from 0 or more")
        if self.starts[-1] > self.period_seconds:
            raise ConfigError(
                f"a session starts at {self.starts[-1]:g} s, after the period of "
                f"{self.period_seconds:g} s"
            )

    def sessions(self, num_tiers: int) -> Sessions:
        """Return the sessions for the simulator, with tiers of speed that are alike in size."""
        cuts = np.quantile(self.task_seconds, np.arange(1, num_tiers) / num_tiers)
        tiers = num_tiers - 1 - np.searchsorted(cuts, self.task_seconds)
        return Sessions(
            self.starts, self.ends, self.task_seconds, self.atoms, tiers.astype(np.int64)
        )

    @property
    def class_rates(self) -> Floats:
        """Check-ins a second that each class may use, ``[classes]``."""
        counts = np.bincount(self.atoms, minlength=self.eligible.shape[1])
        return self.eligible @ counts / self.period_seconds


def surrogate_trace(
    scale: float = BUSY_SCALE, seed: int = 0, *, num_clients: int = NUM_FEDSCALE_CLIENTS
) -> Trace:
    """Return a trace drawn from 100 real FedScale clients, in place of all 107,749.

    Clients are drawn with replacement and each is shifted by up to half an hour; sessions are
    thinned so that a period has ``scale * CHECKINS_A_PERIOD`` of them, or as many fewer as there
    are fewer clients. Capacities are drawn likewise, with a noise of 10 % on the bandwidth.

    Args:
        scale: Check-ins, as a multiple of those in Venn's trace file.
        seed: The same seed gives the same trace.
        num_clients: The size of the population.
    """
    if scale <= 0 or num_clients < 1:
        raise ConfigError(
            f"want a scale above 0 and 1 or more clients, got {scale} and {num_clients}"
        )
    generator = generator_for(seed, "sessions")
    starts, lengths, _ = _draw_sessions(num_clients, generator)
    is_in = (starts >= 0) & (starts <= PERIOD_SECONDS)
    wanted = scale * CHECKINS_A_PERIOD * num_clients / NUM_FEDSCALE_CLIENTS
    is_in &= generator.random(starts.size) < wanted / is_in.sum()
    capacities = np.array(
        [
            (float(row["computation"]), float(row["communication"]))
            for row in read_table("fedscale100_capacity.csv")
        ]
    )
    drawn = generator.integers(0, len(capacities), int(is_in.sum()))
    noise = np.exp(generator.normal(0.0, 0.1, drawn.size))
    origin = "surrogate: drawn from 100 real FedScale clients"
    return _assemble(
        starts[is_in], lengths[is_in], capacities[drawn, 0], capacities[drawn, 1] * noise, origin
    )


def client_sessions(num_clients: int, seed: int = 0) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return sessions that are known by their clients, all that real ones had.

    Clients are drawn and shifted as those of ``surrogate_trace``, and no session is left out.

    Args:
        num_clients: The size of the population.
        seed: The same seed gives the same sessions.

    Returns:
        Starts, which ascend within ``PERIOD_SECONDS``; ends; and whose each is, by its number.
    """
    if num_clients < 1:
        raise ConfigError(f"want 1 or more clients, got {num_clients}")
    starts, lengths, clients = _draw_sessions(num_clients, generator_for(seed, "sessions"))
    order = np.argsort(starts, kind="stable")
    order = order[(starts[order] >= 0) & (starts[order] <= PERIOD_SECONDS)]
    found = starts[order].astype(np.float64)
    return found, found + lengths[order] + LONGER_SECONDS, clients[order]


def _draw_sessions(
    num_clients: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and lengths of sessions, and whose each is, client by client."""
    content = files("hocket.fl.venn.data").joinpath("fedscale100_sessions.csv.gz").read_bytes()
    rows = np.loadtxt(io.BytesIO(gzip.decompress(content)), np.int64, delimiter=",", skiprows=1)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    firsts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
    counts = np.diff(firsts, append=len(rows))
    clients = generator.integers(0, firsts.size, num_clients)
    shifts = generator.integers(-MAX_SHIFT_SECONDS, MAX_SHIFT_SECONDS + 1, num_clients)
    sizes = counts[clients]
    at = np.arange(sizes.sum()) + np.repeat(firsts[clients] - np.cumsum(sizes) + sizes, sizes)
    starts = rows[at, 1] + np.repeat(shifts, sizes)
    return starts, rows[at, 2] - rows[at, 1], np.repeat(np.arange(num_clients), sizes)


def load_trace(sessions: Path, capacities: Path) -> Trace:
    """Return a trace from files that a user has.

    Args:
        sessions: Venn's ``fedscale_clients_7000000_3_info.csv`` (columns ID, start, end), or
            FedScale's ``client_behave_trace``.
        capacities: FedScale's ``client_device_capacity``, or a CSV file with the columns
            computation and communication.

    Raises:
        ConfigError: A file is not what it should be.
    """
    if sessions.suffix == ".csv":
        columns = _columns(sessions, ("start", "end"))
        starts, ends = columns["start"], columns["end"]
    else:
        clients = _read_pickle(sessions).values()
        pairs = [
            pair for each in clients for pair in zip(each["active"], each["inactive"], strict=False)
        ]
        starts, ends = np.array(pairs, np.float64).T
    if capacities.suffix == ".csv":
        columns = _columns(capacities, ("computation", "communication"))
        speeds = columns["computation"], columns["communication"]
    else:
        found = list(_read_pickle(capacities).values())
        speeds = (
            np.array([each["computation"] for each in found], np.float64),
            np.array([each["communication"] for each in found], np.float64),
        )
    is_in = (starts >= 0) & (starts <= PERIOD_SECONDS) & (ends >= starts)
    starts, ends = starts[is_in], ends[is_in]
    turns = np.arange(starts.size) % speeds[0].size
    origin = f"{sessions.name}, {capacities.name}"
    return _assemble(starts, ends - starts, speeds[0][turns], speeds[1][turns], origin)


def _assemble(
    starts: NDArray[Any],
    lengths: NDArray[Any],
    computation: Floats,
    communication: Floats,
    origin: str,
) -> Trace:
    order = np.argsort(starts, kind="stable")
    starts = starts[order].astype(np.float64)
    ends = starts + lengths[order] + LONGER_SECONDS
    task_seconds = (
        WORK_SECONDS * computation / MEAN_COMPUTATION
        + TRANSFER_SECONDS * MEAN_COMMUNICATION / communication
    )
    models, eligible = phone_models()
    atoms = models[np.arange(starts.size) % models.size]
    return Trace(starts, ends, task_seconds, atoms, eligible, PERIOD_SECONDS, origin)


def phone_models() -> tuple[NDArray[np.int32], Bools]:
    """Return the type of each of AI-Benchmark's phone models, and which class may use which type.

    Returns:
        ``[models]``, and ``[classes, types]``.
    """
    rows = read_table("venn_device_eligibility.csv")
    masks = np.array(
        [sum(int(row[name]) << bit for bit, name in enumerate(CLASSES)) for row in rows]
    )
    types, models = np.unique(masks, return_inverse=True)
    eligible = (types[None, :] >> np.arange(len(CLASSES))[:, None] & 1).astype(np.bool_)
    return models.astype(np.int32), eligible


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, Floats]:
    with path.open(encoding="utf-8") as file:
        heading = file.readline().strip().split(",")
    missing = [name for name in names if name not in heading]
    if missing:
        raise ConfigError(
            f"{path}: want the columns {', '.join(names)}, found {', '.join(heading)}"
        )
    try:
        found = np.loadtxt(
            path,
            delimiter=",",
            skiprows=1,
            usecols=[heading.index(name) for name in names],
            ndmin=2,
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return dict(zip(names, found.T, strict=True))


class _PlainUnpickler(pickle.Unpickler):
    """Reads FedScale's files, which are pickles, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            found = _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: no table of plain numbers and lists: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path}: want a table by client, found {type(found).__name__}")
    return found
