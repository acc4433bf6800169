"""What the service answers; the names of fields are the keys of its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

Phase = Literal["idle", "selecting", "reporting", "over", "finished", "cancelled"]


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
            ``over`` when all have answered or time is up, ``finished``, ``cancelled``.
        num_rounds: That it will have; null if nobody has said.
        rounds_done: Rounds that were ended as a success.
        round: Number of the last round that was begun; 0 before the first.
        count, wanted: Devices that the round asked for, and that it still wants.
        minimum: Least values of attributes.
        active: Devices that work for it now.
        succeeded, failed, expired: Devices of this round by what became of them.
        due_in_seconds: To the end of the selection, or of the time to report.
        why: What it waits for.
    """

    job: str
    owner: str
    phase: Phase
    num_rounds: int | None
    rounds_done: int
    round: int
    count: int
    wanted: int
    minimum: dict[str, float]
    active: int
    succeeded: int
    failed: int
    expired: int
    due_in_seconds: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Status:
    """How all jobs of the caller stand.

    Attributes:
        jobs: In the order in which they came.
        policy: By which devices are shared.
        check_ins, given: Devices that have checked in, and those that got a job, since the database
            was made.
        active: Devices that work for a job now, whoever's.
    """

    jobs: list[JobStatus]
    policy: str
    check_ins: int
    given: int
    active: int


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
