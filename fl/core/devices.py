"""Devices and who gets them: requests of jobs, and schedulers that answer an offer at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.types import Device


@dataclass(frozen=True)
class DeviceRequest:
    """What a job asks for, for one round.

    Attributes:
        job: Who asks; a job has one request at a time.
        count: Devices wanted.
        minimum: Least value of each attribute that a device must have.

    Raises:
        ConfigError: The count is no positive number.
    """

    job: str
    count: int
    minimum: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"job {self.job!r}: want 1 or more devices, got {self.count}")

    def is_met_by(self, device: Device) -> bool:
        """Whether a device has all that is asked for."""
        missing = float("-inf")
        return all(
            device.attributes.get(name, missing) >= value for name, value in self.minimum.items()
        )


class DeviceScheduler(Protocol):
    """Shares devices among jobs. It is offered each device as it appears."""

    def submit(self, request: DeviceRequest) -> None:
        """Take a request, which takes the place of one that the job made before."""
        ...

    def withdraw(self, job: str) -> None:
        """Forget a job's request, if it has one."""
        ...

    def offer(self, device: Device) -> str | None:
        """Return the job that gets a device, whose request then wants one less.

        None if no job wants it. A job never gets a device that does not meet its request, nor more
        devices than it asked for.
        """
        ...


@runtime_checkable
class GatheringScheduler(DeviceScheduler, Protocol):
    """A scheduler that is asked for a round's devices at once, as each question takes its time."""

    def gather(self, request: DeviceRequest, devices: Sequence[Device]) -> list[Device]:
        """Do what ``gather`` does."""
        ...


def gather(
    scheduler: DeviceScheduler, request: DeviceRequest, devices: Sequence[Device]
) -> list[Device]:
    """Return the devices that a job gets for one round.

    Args:
        scheduler: Shares them.
        request: What the job asks for.
        devices: That are there, in the order in which they are offered.
    """
    if isinstance(scheduler, GatheringScheduler):
        return scheduler.gather(request, devices)
    scheduler.submit(request)
    got = [device for device in devices if scheduler.offer(device) == request.job]
    scheduler.withdraw(request.job)
    return got


class FifoScheduler:
    """Serves requests in the order in which they came."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, DeviceRequest] = OrderedDict()
        self._wanted: dict[str, int] = {}

    def submit(self, request: DeviceRequest) -> None:
        """Take a request, at the end of the line unless it takes the place of another."""
        self._requests[request.job] = request
        self._wanted[request.job] = request.count

    def withdraw(self, job: str) -> None:
        """Forget a job's request, if it has one."""
        self._requests.pop(job, None)
        self._wanted.pop(job, None)

    def offer(self, device: Device) -> str | None:
        """Return the first job that wants the device."""
        willing = [job for job, each in self._requests.items() if each.is_met_by(device)]
        return self._give(willing[0]) if willing else None

    def _give(self, job: str) -> str:
        self._wanted[job] -= 1
        if not self._wanted[job]:
            self.withdraw(job)
        return job


class RandomScheduler(FifoScheduler):
    """Serves any of the requests that a device meets, each as likely.

    Args:
        seed: The same seed, requests and offers give the same answers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = generator_for(seed, "device scheduler")

    def offer(self, device: Device) -> str | None:
        """Return one of the jobs that want the device."""
        willing = [job for job, each in self._requests.items() if each.is_met_by(device)]
        return self._give(willing[int(self._generator.integers(len(willing)))]) if willing else None
