"""Devices that work for several jobs: clients of all of them behind one engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hocket.fl.core.engine import failure
from hocket.fl.core.types import ClientUpdate
from hocket.fl.photon.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hocket.fl.core.client import Client, ClientFactory
    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply
    from hocket.fleet.events import Cost, FleetClock

JOB = "fleet.job"
"""Setting of a task: whose it is."""


@dataclass(frozen=True)
class FleetClients:
    """Makes clients that can stand for any device, for any job; see ``ClientFactory``.

    Attributes:
        members: Make the clients of each job, by its name.
        devices: Names of all devices; the first stands for each job's first client, and so on.
    """

    members: Mapping[str, ClientFactory]
    devices: tuple[str, ...]

    def device_ids(self) -> list[str]:
        """Return all devices."""
        return list(self.devices)

    def clients_of(self, job: str) -> dict[str, str]:
        """Return which client of a job each device is, as far as it has any."""
        return dict(zip(self.devices, sorted(self.members[job].device_ids()), strict=False))

    def __call__(self) -> FleetClient:
        """Return a new client."""
        return FleetClient(self)


@dataclass
class FleetClient:
    """A client of any device; what a job's tasks take is made with the first of them.

    Attributes:
        made_from: Whose it is.
    """

    made_from: FleetClients
    _members: dict[str, tuple[Client, dict[str, str]]] = field(default_factory=dict)

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Do a task of the job that it names."""
        job = str(task.config[JOB])
        if job not in self._members:
            clients = self.made_from.clients_of(job)
            self._members[job] = (self.made_from.members[job](), clients)
        client, names = self._members[job]
        config = {name: value for name, value in task.config.items() if name != JOB}
        found = client.run(
            replace(task, device_id=names[task.device_id], config=config), parameters
        )
        return replace(found, device_id=task.device_id)


class Cohort:
    """Gives a round the devices that it has, whatever is offered; a ``GatheringScheduler``."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()

    def submit(self, request: DeviceRequest) -> None:
        """Do nothing: the round has its devices."""

    def withdraw(self, job: str) -> None:
        """Do nothing."""

    def offer(self, device: Device) -> str | None:
        """Give no device away."""
        del device
        return None

    def gather(self, request: DeviceRequest, devices: Sequence[Device]) -> list[Device]:
        """Return the devices of the round."""
        del request
        return [device for device in devices if device.device_id in self.names]


@dataclass
class JobEngine:
    """A job's clients on the engine of all jobs, in simulated time; see ``Engine``.

    Tasks of devices that did not answer in time are not worked on. Replies are read in the order in
    which they came by the simulated clock, which is where it was when the last one is read. What a
    server measures on devices apart from training takes no simulated time.

    Attributes:
        job: Its name.
        inner: Where work is done.
        clients: Names of the job's clients, by device.
        costs: Of the round, by client.
        arrivals: Seconds into the round at which each answer came that counts, by client.
        clock: Of the job's server.
        replied: Told of each update that counts, with the parameters that it began with.
    """

    job: str
    inner: Engine
    clients: Mapping[str, str]
    clock: FleetClock
    replied: Callable[[ClientUpdate, Parameters], None]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    arrivals: Mapping[str, float] = field(default_factory=dict)

    def devices(self) -> list[Device]:
        """Return the job's clients, by name."""
        found = {device.device_id: device for device in self.inner.devices()}
        return [replace(found[device], device_id=client) for device, client in self.clients.items()]

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task; deadlines were the fleet's to set."""
        del timeout_seconds
        started = self.clock.seconds
        is_training = bool(tasks) and tasks[0].kind == "train"
        done = [task for task in tasks if not is_training or task.device_id in self.arrivals]
        replies = self._work(done, parameters)
        order = sorted(replies, key=lambda name: (self.arrivals.get(name, 0.0), name))
        for name in order:
            reply = replies[name]
            if is_training:
                self.clock.seconds = started + self.arrivals[name]
                reply = self._timed(reply, parameters)
            yield reply
        for task in tasks:
            if is_training and task.device_id not in self.arrivals:
                yield failure(task, "it did not answer while the round went on")

    def close(self) -> None:
        """Do nothing: the engine is everyone's."""

    def _work(self, tasks: Sequence[ClientTask], parameters: Parameters) -> dict[str, Reply]:
        devices = {client: device for device, client in self.clients.items()}
        sent = [
            replace(task, device_id=devices[task.device_id], config={**task.config, JOB: self.job})
            for task in tasks
        ]
        found: dict[str, Reply] = {}
        for reply in self.inner.run(sent, parameters):
            client = self.clients[reply.device_id]
            found[client] = replace(reply, device_id=client)
        return found

    def _timed(self, reply: Reply, parameters: Parameters) -> Reply:
        """Return a reply that says the simulated seconds, where it says any."""
        if not isinstance(reply, ClientUpdate):
            return reply
        cost = self.costs[reply.device_id]
        self.replied(replace(reply, metrics={**reply.metrics, SECONDS: cost.seconds}), parameters)
        if SECONDS not in reply.metrics:
            return reply
        return replace(reply, metrics={**reply.metrics, SECONDS: cost.compute_seconds})
