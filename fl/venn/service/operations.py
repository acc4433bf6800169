"""What may be asked of the service: the bodies of requests, and the lines of the journal.

Every operation is a value that JSON holds whole, so what was asked can be done again after a
restart. Nothing here knows of HTTP.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_BATCH = 1000
"""Check-ins or results in one request."""

MAX_ATTRIBUTES = 32
DAY_SECONDS = 86400.0
_LONGEST_SECONDS = 30 * DAY_SECONDS

JOB_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

JobName = Annotated[str, Field(pattern=JOB_PATTERN)]
DeviceName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
AttributeName = Annotated[str, Field(min_length=1, max_length=100)]
Attributes = Annotated[dict[AttributeName, float], Field(max_length=MAX_ATTRIBUTES)]
# Shorter ones would be lost beside the seconds since 1970.
Seconds = Annotated[float, Field(ge=0.001, le=_LONGEST_SECONDS)]


class Model(BaseModel):
    """A value that is checked when it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CheckIn(Model):
    """A device that is there.

    Attributes:
        device: Its name.
        attributes: What requests may ask for; a limit such as a time is given as its negative.
    """

    device: DeviceName
    attributes: Attributes = Field(default_factory=dict)


class Result(Model):
    """What became of an assignment.

    Attributes:
        assignment: Its number.
        is_success: Whether the device did what it was asked; if not, it is lost to the round.
        seconds: That it took; null for the time since it got the job.
    """

    assignment: Annotated[int, Field(ge=1)]
    is_success: bool = True
    seconds: Seconds | None = None


class Register(Model):
    """Make a job known, or say of one that is known how many rounds it has."""

    kind: Literal["register"] = "register"
    job: JobName
    num_rounds: Annotated[int, Field(ge=1)] | None = None


class AskDevices(Model):
    """Begin a round: ask for devices. A round that has not ended is given up.

    Attributes:
        job: Who asks.
        count: Devices wanted.
        minimum: Least value of each attribute that a device must have.
        selection_seconds: After which the round goes on with the devices that it has by then, or
            has failed, if they are no quorum.
        deadline_seconds: That devices have from the end of the selection.
        quorum: Part of the devices that must report.
    """

    kind: Literal["ask_devices"] = "ask_devices"
    job: JobName
    count: Annotated[int, Field(ge=1, le=10_000_000)]
    minimum: Attributes = Field(default_factory=dict)
    selection_seconds: Seconds = DAY_SECONDS
    deadline_seconds: Seconds = 3600.0
    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0


class Withdraw(Model):
    """Ask for no more devices; those that were given go on."""

    kind: Literal["withdraw"] = "withdraw"
    job: JobName


class EndRound(Model):
    """End a round, which counts as one of the job's; its devices are free again."""

    kind: Literal["end_round"] = "end_round"
    job: JobName


class Finish(Model):
    """End a job.

    Attributes:
        job: Which.
        is_cancelled: Whether it ends before it has done what it was for.
    """

    kind: Literal["finish"] = "finish"
    job: JobName
    is_cancelled: bool = False


class CheckIns(Model):
    """Devices that are there, and want work."""

    kind: Literal["check_ins"] = "check_ins"
    devices: Annotated[tuple[CheckIn, ...], Field(min_length=1, max_length=MAX_BATCH)]


class Results(Model):
    """What became of assignments."""

    kind: Literal["results"] = "results"
    results: Annotated[tuple[Result, ...], Field(min_length=1, max_length=MAX_BATCH)]


class ExplainJobs(Model):
    """Say how jobs stand and what each waits for.

    It is kept in the journal like all else: a scheduler that is asked may make a plan, by which it
    then decides.

    Attributes:
        job: Which; None for all that the caller may see.
    """

    kind: Literal["explain_jobs"] = "explain_jobs"
    job: JobName | None = None


class ExplainDevice(Model):
    """Say which job a device would get now, and why."""

    kind: Literal["explain_device"] = "explain_device"
    device: CheckIn


class ListDevices(Model):
    """Say which devices work for a job now."""

    kind: Literal["list_devices"] = "list_devices"
    job: JobName


class Tick(Model):
    """Let time pass: what is due ends."""

    kind: Literal["tick"] = "tick"


Operation = (
    Register
    | AskDevices
    | Withdraw
    | EndRound
    | Finish
    | CheckIns
    | Results
    | ListDevices
    | ExplainJobs
    | ExplainDevice
    | Tick
)


def cost_of(operation: Operation) -> int:
    """Return how many devices an operation is about; 1 for those of a job."""
    match operation:
        case CheckIns():
            return len(operation.devices)
        case Results():
            return len(operation.results)
    return 1


OPERATION: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="kind")])
"""Reads an operation from the JSON that ``model_dump_json`` wrote."""
