"""A device scheduler that is a service elsewhere, for coordinators, gateways and job managers."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import TypeAdapter, ValidationError

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.observers import Silent
from hocket.fl.core.types import ClientUpdate
from hocket.fl.venn.service.answers import (
    Assignments,
    Cohort,
    Done,
    Explanation,
    Recorded,
    Status,
)
from hocket.fl.venn.service.errors import ServiceError
from hocket.fl.venn.service.operations import (
    MAX_BATCH,
    AskDevices,
    CheckIn,
    CheckIns,
    EndRound,
    ExplainDevice,
    ExplainJobs,
    Finish,
    ListDevices,
    Register,
    Result,
    Results,
    Withdraw,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.types import Device, Reply
    from hocket.fl.venn.service.answers import Assignment
    from hocket.fl.venn.service.operations import Model

    T = TypeVar("T")

ATTEMPTS = 8
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
_AGAIN = (408, 429, 500, 502, 503, 504)
"""Status of answers after which the same question may have another."""


class ServiceClient:
    """Asks a service, again where that may help, with the same key: nothing is done twice.

    Args:
        url: Of the service.
        token: As ``hocket venn token`` printed it; empty if the service takes anyone.
        timeout_seconds: For one attempt.
        attempts: For one question, the first included.
        http: In place of a connection of its own.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_seconds: float = 10.0,
        attempts: int = ATTEMPTS,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._attempts = attempts
        self._sleep = sleep
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = http or httpx.Client(timeout=timeout_seconds)
            self._base = httpx.URL(self._url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from error
        if self._base.scheme not in {"http", "https"} or not self._base.host:
            raise ConfigError(f"{url!r}: want a URL with http or https")

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def register(self, job: str, *, num_rounds: int | None = None) -> None:
        """Make a job known."""
        self._ask(Done, Register, job=job, num_rounds=num_rounds)

    def ask_devices(self, request: DeviceRequest, **limits: float) -> int:
        """Begin a round and return its number.

        Args:
            request: What the job asks for.
            limits: ``selection_seconds``, ``deadline_seconds`` and ``quorum``.
        """
        minimum = {name: float(value) for name, value in request.minimum.items()}
        return self._ask(
            Done, AskDevices, job=request.job, count=request.count, minimum=minimum, **limits
        ).round

    def withdraw(self, job: str) -> None:
        """Ask for no more devices; those that were given go on."""
        self._ask(Done, Withdraw, job=job)

    def end_round(self, job: str) -> None:
        """End a round, which counts as one of the job's; its devices are free again."""
        self._ask(Done, EndRound, job=job)

    def finish(self, job: str, *, is_cancelled: bool = False) -> None:
        """End a job."""
        self._ask(Done, Finish, job=job, is_cancelled=is_cancelled)

    def check_in(self, devices: Sequence[Device]) -> list[Assignment | None]:
        """Return what each device is to work for, in order; None where nobody wants it."""
        found: list[Assignment | None] = []
        for start in range(0, len(devices), MAX_BATCH):
            part = tuple(map(_check_in_of, devices[start : start + MAX_BATCH]))
            found += self._ask(Assignments, CheckIns, devices=part).assignments
        return found

    def report(self, results: Iterable[Result]) -> list[bool]:
        """Say what became of assignments; return for each whether it still counted."""
        results = tuple(results)
        found: list[bool] = []
        for start in range(0, len(results), MAX_BATCH):
            part = results[start : start + MAX_BATCH]
            found += self._ask(Recorded, Results, results=part).is_recorded
        return found

    def devices(self, job: str) -> list[Assignment]:
        """Return the devices that work for a job now."""
        return self._ask(Cohort, ListDevices, job=job).assignments

    def status(self, job: str | None = None) -> Status:
        """Return how one job stands, or all, and what each waits for."""
        return self._ask(Status, ExplainJobs, job=job)

    def why_device(self, device: Device) -> str:
        """Return in a sentence which job a device would get now, and why."""
        return self._ask(Explanation, ExplainDevice, device=_check_in_of(device)).why

    def _ask(self, answer: type[T], model: type[Model], **fields: Any) -> T:
        """Return what the service answers to an operation with these fields.

        Raises:
            ConfigError: What is asked is not of its form.
            ServiceError: There is no answer, or a refusal.
        """
        try:
            operation = model(**fields)
        except ValidationError as error:
            raise ConfigError(f"{model.__name__}: {error}") from error
        kind = model.model_fields["kind"].default
        response = self._send(f"/v1/{kind.replace('_', '-')}", operation.model_dump_json())
        try:
            return TypeAdapter(answer).validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(
                f"{self._url}: answers what this Hocket does not know: {error}"
            ) from error

    def _send(self, path: str, body: str) -> httpx.Response:
        headers = {**self._headers, "Idempotency-Key": uuid.uuid4().hex}
        wait, problem = FIRST_WAIT_SECONDS, ""
        for attempt in range(self._attempts):
            if attempt:
                self._sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            try:
                response = self._http.post(
                    self._base.join(path), content=body.encode(), headers=headers
                )
            except httpx.TransportError as error:
                problem = (
                    f"cannot be reached: {error or type(error).__name__}; does `hocket venn serve` "
                    "run there?"
                )
                continue
            if response.is_success:
                return response
            problem = _problem_of(response)
            if response.status_code not in _AGAIN:
                raise ServiceError(f"{self._url}: {problem}")
            asked = response.headers.get("retry-after", "")
            wait = max(wait, float(asked)) if asked.isdecimal() else wait
        raise ServiceError(f"{self._url}: {problem} ({self._attempts} attempts)")


class ServiceScheduler(Silent):
    """A ``DeviceScheduler`` that is a service: its job shares devices with other federations.

    A device works for a job until its update is in, of which the scheduler hears as an observer, or
    until the job asks for devices of its next round. So one that two federations know never trains
    for both at once. ``gather`` asks for a whole cohort in one request.

    Args:
        client: Asks the service.
        num_rounds: That the job will have, if that is known.
        wait_seconds: That a round waits for devices which work for others; then it goes on with
            those that it has.
        deadline_seconds: After which devices are free, whatever became of their job.
        poll_seconds: From one check-in of devices that wait to the next.
        clock: Seconds of any clock that only goes on.
        sleep: Waits.
    """

    def __init__(
        self,
        client: ServiceClient,
        *,
        num_rounds: int | None = None,
        wait_seconds: float = 60.0,
        deadline_seconds: float = 3600.0,
        poll_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._num_rounds = num_rounds
        self._wait_seconds = wait_seconds
        self._deadline_seconds = deadline_seconds
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._sleep = sleep
        self._jobs: set[str] = set()
        self._assignments: dict[str, int] = {}

    def submit(self, request: DeviceRequest) -> None:
        """Take a request; the round before it is over, and its devices are free."""
        if request.job not in self._jobs:
            self._client.register(request.job, num_rounds=self._num_rounds)
        else:
            self._client.end_round(request.job)
        self._assignments.clear()
        self._client.ask_devices(request, deadline_seconds=self._deadline_seconds)
        self._jobs.add(request.job)

    def withdraw(self, job: str) -> None:
        """Ask for no more devices; those that were given go on. Of an unknown job: nothing."""
        if job in self._jobs:
            self._client.withdraw(job)

    def offer(self, device: Device) -> str | None:
        """Return the job that a device works for; the one that it is at, if it is at one."""
        (found,) = self._client.check_in([device])
        return None if found is None else found.job

    def gather(self, request: DeviceRequest, devices: Sequence[Device]) -> list[Device]:
        """Return the devices that a job gets for a round, and wait for them if that may help."""
        self.submit(request)
        end = self._clock() + self._wait_seconds
        got: list[Device] = []
        waiting = list(devices)
        while True:
            found = self._client.check_in(waiting)
            for device, each in zip(waiting, found, strict=True):
                if each is not None and each.job == request.job:
                    got.append(device)
                    self._assignments[device.device_id] = each.assignment
            waiting = [
                device
                for device, each in zip(waiting, found, strict=True)
                if each is not None and each.job != request.job
            ]
            if len(got) >= request.count or not waiting or self._clock() >= end:
                break
            self._sleep(self._poll_seconds)
        self.withdraw(request.job)
        return got

    def replied(self, reply: Reply) -> None:
        """Free a device whose update is in; one that failed is left alone until the round ends."""
        if isinstance(reply, ClientUpdate) and reply.kind == "train":
            number = self._assignments.pop(reply.device_id, None)
            if number is not None:
                self._client.report([Result(assignment=number)])

    def close(self, *, is_cancelled: bool = False) -> None:
        """End the jobs that were asked for here, and the connection.

        Args:
            is_cancelled: Whether they end before they have done what they were for.
        """
        try:
            for job in sorted(self._jobs):
                self._client.finish(job, is_cancelled=is_cancelled)
        finally:
            self._jobs.clear()
            self._client.close()


def _check_in_of(device: Device) -> CheckIn:
    return CheckIn(
        device=device.device_id,
        attributes={name: float(value) for name, value in device.attributes.items()},
    )


def _problem_of(response: httpx.Response) -> str:
    try:
        text = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        text = response.reason_phrase
    return f"{text} (status {response.status_code})"
