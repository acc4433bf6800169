"""What the service answers; the names of fields are the keys of its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Assignment:
    """A device that works for a job.

    Attributes:
        assignment: Its number, by which its result is reported.
        job, round: What it works for.
        device: Its name.
    """

    assignment: int
    job: str
    round: int
    device: str


@dataclass(frozen=True, slots=True)
class Assignments:
    """Of each device that checked in, in order; null where nobody wants it."""

    assignments: list[Assignment | None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Of each result, in order: whether it counts; not if its assignment was over already."""

    is_recorded: list[bool]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands.

    Attributes:
        job, owner: Its name, and that of the token that registered it.
        phase: ``idle`` before a round, ``selecting`` devices, ``reporting`` while they work,
            ``complete`` with a quorum of results, ``failed`` without; ``finished``, ``cancelled``.
        num_rounds: That it will have; null if nobody has said.
        rounds_done: Rounds that it has ended.
        round: Number of the last round that was begun; 0 before the first.
        count, wanted: Devices that the round asked for, and that it still wants.
        minimum: Least values of attributes.
        at_work: Devices that work for it now.
        answered, lost: Devices of this round by what became of them.
        due_in_seconds: To the end of the phase; null if it does not end by itself.
        why: What it waits for.
    """

    job: str
    owner: str
    phase: str
    num_rounds: int | None
    rounds_done: int
    round: int
    count: int = 0
    wanted: int = 0
    minimum: dict[str, float] = field(default_factory=dict)
    at_work: int = 0
    answered: int = 0
    lost: int = 0
    due_in_seconds: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """How all jobs of the caller stand, and, since the database was made, all devices.

    Attributes:
        jobs: Those that are over first, then in the order in which they came.
        policy: By which devices are shared.
        check_ins: Of devices that were not at work.
        given, answered, lost: Devices that got a job, and what became of them.
        at_work: Devices that work for a job now, whoever's.
        waste: Part of the devices given whose work served no completed round.
    """

    jobs: list[JobStatus]
    policy: str
    check_ins: int
    given: int
    answered: int
    lost: int
    at_work: int
    waste: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """The devices that work for a job now."""

    assignments: list[Assignment]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a device goes where it goes, in a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """It is done.

    Attributes:
        job: Of which.
        round: Its round.
    """

    job: str
    round: int


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service writes what it is told."""

    is_healthy: bool
    version: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no other answer."""

    error: str


Answer = Assignments | Recorded | Status | Cohort | Explanation | Done | Health | Problem

ANSWERS: dict[type[Answer], TypeAdapter[Answer]] = {
    each: TypeAdapter(each)
    for each in (*(Assignments, Recorded, Status, Cohort, Explanation, Done, Health, Problem),)
}
"""Writes each kind, and knows its schema."""


def to_json(answer: Answer) -> bytes:
    """Return an answer as it is sent and kept."""
    return ANSWERS[type(answer)].dump_json(answer)
