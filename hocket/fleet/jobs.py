"""A job of a fleet: rounds that are really trained, or read where they are over."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.coordinator import SERVER
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.store import Key
from hocket.fl.sim.requirements import attribute_of
from hocket.fl.venn.requests import RoundRequest
from hocket.fleet.events import Cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.coordinator import Plan, Progress
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.strategy import ServerState
    from hocket.fl.core.types import ClientTask, RoundReport
    from hocket.fleet.clients import Cohort, JobEngine
    from hocket.fleet.config import JobSection
    from hocket.fleet.costs import ClassModel, Workloads


COSTS = "costs"
"""Kind of an entry beside a round's report: what it took on each device."""


class Server(Protocol):
    """What runs a job's rounds: a ``Coordinator`` or a ``PhotonServer``."""

    @property
    def plan(self) -> Plan:
        """How long."""
        ...

    @property
    def store(self) -> Store:
        """Where it keeps rounds."""
        ...

    def begin(self, parameters: Parameters) -> Progress:
        """Return the start of the job, and keep it; one of this name is replaced."""
        ...

    def resume(self) -> Progress:
        """Return how far the job in the store has come."""
        ...

    def run_round(self, progress: Progress) -> Progress:
        """Run one round and return how far it has brought the job."""
        ...


class Tasks(Protocol):
    """What a job has its clients do, without doing it."""

    def configure(
        self, state: ServerState, round_number: int, clients: Sequence[str]
    ) -> list[ClientTask]:
        """Return a round's tasks."""
        ...

    def upload_bytes(self, state: ServerState, task: ClientTask) -> int:
        """Return what a client sends back."""
        ...

    def is_finished(self, state: ServerState) -> bool:
        """Return whether more rounds would change nothing."""
        ...


@dataclass(frozen=True, eq=False)
class Demand:
    """What a job asks of devices, and what its tasks take on each.

    Attributes:
        settings: Of the job in the fleet's file.
        models: The job's model for each class of devices, by its name.
        kinds: Class of each device.
        workloads: What tasks come to.
        num_examples: That each client trains and evaluates on.
        training: Of which the hardest task is, for eligibility.
        hardest: That task.
    """

    settings: JobSection
    models: Mapping[str, ClassModel]
    kinds: Mapping[str, str]
    workloads: Workloads
    num_examples: Mapping[str, tuple[int, int]]
    training: LocalTraining
    hardest: ClientTask

    @property
    def peak_bytes(self) -> int:
        """Memory that a device must have, whatever its task: the largest of all footprints."""
        return max(
            model.footprint(self.training, span).peak_bytes
            for model in self.models.values()
            for span in self.workloads.spans()
        )

    def seconds(self, model: ClassModel) -> float:
        """Return how long a device of a class computes for the hardest task."""
        most = max(self.num_examples.values())
        return self.workloads.work(self.hardest, most).seconds(model, self.training)

    def minimum(self, job: str) -> dict[str, float]:
        """Return what a request asks for."""
        found = {"memory_bytes": float(self.peak_bytes)}
        if self.settings.within_seconds:
            found[attribute_of(job)] = 0.0
        return found

    def request(self, job: str) -> RoundRequest:
        """Return what devices a round of the job wants."""
        wanted = self.settings
        return RoundRequest(
            job,
            wanted.devices,
            self.minimum(job),
            selection_seconds=wanted.selection_seconds or math.inf,
            deadline_seconds=wanted.deadline_seconds or math.inf,
            quorum=wanted.quorum,
        )

    def attributes(self, job: str) -> dict[str, dict[str, float]]:
        """Return what devices of each class say of themselves, as far as it is about this job."""
        within = self.settings.within_seconds
        return {
            name: {attribute_of(job): within - self.seconds(model)} if within else {}
            for name, model in self.models.items()
        }

    def cost(self, task: ClientTask, device: str, downloaded: int, uploaded: int) -> Cost:
        """Return what a client's task takes on its device."""
        model = self.models[self.kinds[device]]
        training = LocalTraining.from_config(task.config)
        work = self.workloads.work(task, self.num_examples[task.device_id])
        seconds, joules = work.seconds(model, training), work.joules(model, training)
        return model.cost(seconds, joules, downloaded, uploaded)


@dataclass
class TrainedJob:
    """A job whose rounds are trained where it has clients; see ``events.FleetJob``.

    What follows from a state that is no longer kept, the costs of rounds that are over, is kept
    beside their reports. So a fleet that is resumed goes through all its rounds again, reads those
    that are over, and comes to the same.

    Attributes:
        server: Runs rounds.
        tasks: What they ask of clients.
        demand: Of devices.
        engine: The job's clients.
        cohort: Whom the server gets.
        progress: How far the server has come.
        rounds_done: How far the fleet has come.
        answered: Clients whose answers counted, by round.
    """

    server: Server
    tasks: Tasks
    demand: Demand
    engine: JobEngine
    cohort: Cohort
    progress: Progress
    rounds_done: int = 0
    answered: dict[int, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the job."""
        return self.server.plan.job

    @property
    def num_rounds(self) -> int:
        """That it has at most."""
        return self.server.plan.num_rounds

    @property
    def is_over(self) -> bool:
        """Whether it wants no more rounds."""
        if self.rounds_done < self.progress.round:
            return False
        is_finished = self.tasks.is_finished(self.progress.state)
        return is_finished or self.rounds_done >= self.num_rounds

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """Of the rounds that the fleet has come to."""
        return self.progress.reports[: self.rounds_done]

    def request(self) -> RoundRequest:
        """Return what devices its next round wants."""
        return self.demand.request(self.name)

    def costs(self) -> Mapping[str, Cost]:
        """Return what its next round takes on every device."""
        clients, number = self.engine.clients, self.rounds_done + 1
        key = Key(self.name, number, SERVER, COSTS)
        if self.rounds_done < self.progress.round:
            found = json.loads(self.server.store.get(key))
            return {device: Cost(**each) for device, each in found.items()}
        costs = costs_of(self.tasks, self.demand, self.progress.state, number, clients)
        self.engine.costs = {clients[device]: cost for device, cost in costs.items()}
        content = {device: asdict(cost) for device, cost in costs.items()}
        self.server.store.put(key, json.dumps(content).encode())
        return costs

    def run_round(self, devices: Sequence[str], arrivals: Mapping[str, float]) -> None:
        """Train its next round, or read it."""
        number, clients = self.rounds_done + 1, self.engine.clients
        self.answered[number] = sorted(clients[device] for device in arrivals)
        if number > self.progress.round:
            self.cohort.names = frozenset(clients[device] for device in devices)
            self.engine.arrivals = {clients[device]: at for device, at in arrivals.items()}
            self.progress = self.server.run_round(self.progress)
        self.rounds_done = number


def costs_of(
    tasks: Tasks,
    demand: Demand,
    state: ServerState,
    round_number: int,
    clients: Mapping[str, str],
) -> dict[str, Cost]:
    """Return what a round takes on each device.

    A device's task does not depend on whom it takes part with, so it can begin before the others
    are known.

    Args:
        tasks: Of the job.
        demand: The same.
        state: Before the round.
        round_number: Of it.
        clients: Of the job, by device.
    """
    wanted = tasks.configure(state, round_number, list(clients.values()))
    devices = {client: device for device, client in clients.items()}
    downloaded = num_bytes(state.parameters)
    return {
        devices[task.device_id]: demand.cost(
            task, devices[task.device_id], downloaded, tasks.upload_bytes(state, task)
        )
        for task in wanted
    }
