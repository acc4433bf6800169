"""A fleet from its file: what it is made of, and the run until all jobs are done."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.federation_parts import fingerprint_of
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import SERVER
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.store import FolderStore, Key
from hocket.fl.engines.local import InProcessEngine, ProcessEngine
from hocket.fl.store.recording import Recorder
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.venn.policies import choose_policies
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fleet.clients import Cohort, FleetClients, JobEngine
from hocket.fleet.events import FleetClock, FleetLoop
from hocket.fleet.families import make_family
from hocket.fleet.jobs import Demand, TrainedJob
from hocket.fleet.population import make_population
from hocket.fleet.recording import RecordedCheckpoints, ask
from hocket.fleet.report import MODULES, describe_fleet, module_name
from hocket.installation import mend_of
from hocket.runtime.artifact import save_artifact
from hocket.runtime.cpu import usable_cores
from hocket.runtime.files import atomic_file
from hocket.store_parts import open_round_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hocket.fl.core.engine import Engine
    from hocket.fl.store.round_store import RoundStore
    from hocket.fleet.config import EngineSection, FleetConfig
    from hocket.fleet.events import FleetJob
    from hocket.fleet.families import Family
    from hocket.fleet.history import History
    from hocket.fleet.population import Population

RESULT, MADE_FROM, ROUNDS, STORE = "fleet.json", "made-from.json", "rounds", "store"
"""What a fleet leaves in its folder: what came of it, what it was made from, the store of rounds;
and in the folder of each job its checkpoints. ``report.MODULES`` has what classes run."""

AUTO = "auto"
"""The dataflow that suits any machine."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """What a fleet is made of.

    Attributes:
        config: Its file.
        population: Its devices.
        families: What its jobs are made of, in the file's order.
    """

    config: FleetConfig
    population: Population
    families: tuple[Family, ...]

    @property
    def fingerprint(self) -> str:
        """Of all that changes what comes out."""
        return fingerprint_of(self.config.essence(), [each.fingerprint for each in self.families])

    @property
    def clients(self) -> FleetClients:
        """What makes clients of all jobs."""
        members = {family.name: family.clients for family in self.families}
        return FleetClients(members, self.population.names)

    def demand(self, number: int) -> Demand:
        """Return what a job asks of devices."""
        family = self.families[number]
        return Demand(
            settings=self.config.jobs[number],
            models=family.models,
            kinds=self.population.classes,
            workloads=family.workloads,
            num_examples=family.num_examples,
            training=family.training,
            hardest=family.hardest,
        )

    def attributes(self) -> dict[str, dict[str, float]]:
        """Return what devices of each class say of themselves, by its name."""
        found = {}
        for each in self.config.classes:
            memory = self.families[0].models[each.name].memory_bytes
            found[each.name] = {
                "memory_bytes": float(memory),
                "download_bytes_per_second": each.download_bytes_per_second,
                "upload_bytes_per_second": each.upload_bytes_per_second,
            }
        for number, family in enumerate(self.families):
            for name, spare in self.demand(number).attributes(family.name).items():
                found[name] |= spare
        return found


@dataclass(frozen=True, eq=False)
class Ended:
    """How a fleet ended.

    Attributes:
        fleet: Which.
        history: Who worked for whom.
        jobs: In the file's order.
        answers: Of the store, as values of JSON.
        kept_bytes: Of the entries that the store has at the end.
        wall_seconds: That it really took.
    """

    fleet: Fleet
    history: History
    jobs: tuple[TrainedJob, ...]
    answers: tuple[dict[str, Any], ...]
    kept_bytes: int
    wall_seconds: float


def prepare_fleet(
    config: FleetConfig, progress: Callable[[str, int, int], None] | None = None
) -> Fleet:
    """Return what a fleet is made of; models are compiled for each class of devices.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
        InfeasibleError: A model does not fit the machine of a class.
    """
    # Now, and not when all models are compiled.
    choose_policies([config.fleet.policy])
    if config.fleet.dataflow not in (AUTO, *DATAFLOWS):
        raise ConfigError(
            f"{config.origin}: fleet.dataflow: no {config.fleet.dataflow!r}; there are {AUTO}, "
            f"{', '.join(DATAFLOWS)}"
        )
    people = config.population
    population = make_population(people.devices, config.classes, people.seed)
    families = []
    for number, job in enumerate(config.jobs):
        if progress is not None:
            progress(job.name or job.federation or job.photon, number, len(config.jobs))
        families.append(make_family(config, job, progress))
    names = [family.name for family in families]
    if len(set(names)) < len(names):
        raise ConfigError(f"{config.origin}: jobs: two have one name, of {names}")
    for request in config.requests:
        for word, value, known in (
            ("job", request.job, names),
            ("workload", request.workload, WORKLOADS),
        ):
            if value not in known:
                raise ConfigError(
                    f"{config.origin}: requests: no {word} {value!r}; there are {', '.join(known)}"
                )
    return Fleet(config, population, tuple(families))


def run_fleet(
    fleet: Fleet,
    *,
    resume: bool = False,
    told: Callable[[TrainedJob], None] | None = None,
) -> Ended:
    """Run a fleet until all jobs are done, and write what came of it into its folder.

    Args:
        fleet: What it is made of.
        resume: Whether to go on where an earlier run was stopped, if one was. Else what is in the
            folder of a fleet with these jobs is replaced.
        told: Of each job that has had one more round.

    Raises:
        FederationError: What is to be resumed was made from something else, or a job gets no
            devices.
    """
    import torch

    started = time.monotonic()
    folder, config = fleet.config.folder, fleet.config
    is_begun = _check_made_from(fleet, resume=resume)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, num_threads)
        clients = fleet.clients
        engine = stack.enter_context(contextlib.closing(_make_engine(config.engine, clients)))
        store = stack.enter_context(
            open_round_store(
                str(folder / ROUNDS),
                memory_bytes=config.store.memory_bytes,
                num_instances=config.store.instances,
                must_exist=False,
            )
        )
        jobs = []
        for number in range(len(fleet.families)):
            recorder = Recorder(store, fleet.families[number].name)
            stack.callback(recorder.close)
            begun = _begin(fleet, number, clients, engine, recorder, resume=is_begun)
            jobs.append(begun)
        asker = _Asker(config, store, {job.name: job for job in jobs}, told)
        policy, seed = config.fleet.policy, config.fleet.seed
        history = make_loop(fleet, jobs, policy, seed, asker.after_round).run()
        kept_bytes = sum(entry.num_bytes for entry in store.history.catalog.entries())
    wall_seconds = time.monotonic() - started
    ended = Ended(fleet, history, tuple(jobs), tuple(asker.answers), kept_bytes, wall_seconds)
    keep_modules(fleet, folder)
    _write(folder / RESULT, describe_fleet(ended))
    return ended


def keep_modules(fleet: Fleet, folder: Path) -> None:
    """Keep each job's module for each class of devices, under its digest, for reports."""
    (folder / MODULES).mkdir(parents=True, exist_ok=True)
    for family in fleet.families:
        for model in family.models.values():
            artifact = model.backend.artifact
            path = folder / MODULES / module_name(artifact.digest)
            if not path.exists():
                save_artifact(artifact, path)


def make_loop(
    fleet: Fleet,
    jobs: Sequence[FleetJob],
    policy: str,
    seed: int,
    after_round: Callable[[str, int], None] | None = None,
) -> FleetLoop:
    """Return what shares a fleet's devices.

    Args:
        fleet: Whose devices.
        jobs: In the file's order.
        policy: By its name.
        seed: Of what the policy draws, and of tasks that are dropped.
        after_round: Told of each round that counted.

    Raises:
        ConfigError: There is no such policy.
    """
    clock = FleetClock()
    (chosen,) = choose_policies([policy])
    rates = {each.name: each.failure_rate for each in fleet.config.classes}
    arrivals = [each.arrival_seconds for each in fleet.config.jobs]
    return FleetLoop(
        VennScheduler(chosen, clock=clock, seed=seed),
        clock,
        list(zip(arrivals, jobs, strict=True)),
        fleet.population.sessions(fleet.attributes()),
        failure_rates={name: rates[kind] for name, kind in fleet.population.classes.items()},
        seed=seed,
        after_round=after_round,
    )


def _begin(
    fleet: Fleet,
    number: int,
    clients: FleetClients,
    engine: Engine,
    recorder: Recorder,
    *,
    resume: bool,
) -> TrainedJob:
    family = fleet.families[number]
    store = RecordedCheckpoints(FolderStore(family.folder / STORE), recorder)
    names, clock, cohort = clients.clients_of(family.name), FleetClock(), Cohort()
    mine = JobEngine(family.name, engine, names, clock, store.update)
    server = family.make_server(mine, cohort, store, clock)
    if resume and store.keys(f"{family.name}/"):
        progress = server.resume()
    else:
        for key in recorder.store.keys(f"{family.name}/"):
            recorder.store.delete(key)
        progress = server.begin(family.begins_with)
    for kind, content in family.aids().items():
        key = Key(family.name, 0, SERVER, kind)
        if key not in recorder.store.history.catalog:
            recorder.store.put(key, content)
    return TrainedJob(server, family.tasks, fleet.demand(number), mine, cohort, progress)


@dataclass
class _Asker:
    """Asks the store what the file says, after each round; answers are kept with its job's rounds.

    Attributes:
        config: The file.
        store: Of rounds.
        jobs: By name.
        told: Of each round.
        answers: So far.
    """

    config: FleetConfig
    store: RoundStore
    jobs: Mapping[str, TrainedJob]
    told: Callable[[TrainedJob], None] | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)

    def after_round(self, name: str, number: int) -> None:
        """Ask what is due."""
        job = self.jobs[name]
        for place, request in enumerate(self.config.requests):
            if request.job != name or number % request.every:
                continue
            key = Key(name, number, SERVER, f"answer-{place}")
            try:
                content = job.server.store.get(key)
            except KeyError:
                found = ask(self.store, request, number, job.answered[number])
                content = json.dumps(found).encode()
                job.server.store.put(key, content)
            self.answers.append(json.loads(content))
        if self.told is not None:
            self.told(job)


def _make_engine(section: EngineSection, clients: FleetClients) -> Engine:
    """Return where devices' work is done.

    Raises:
        ConfigError: It cannot be had here.
    """
    if section.name == "local":
        if section.workers:
            return ProcessEngine(clients, section.workers, WallClock())
        return InProcessEngine(clients, WallClock())
    workers = section.workers or usable_cores()
    try:
        if section.name == "ray":
            from hocket.fl.engines.ray import RayEngine

            return RayEngine(clients, workers, WallClock())
        from hocket.fl.engines.flower.simulation import FlowerSimulation
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine: {error}; {mend_of(section.name)}") from error
    return FlowerSimulation(clients, workers, WallClock(), num_nodes=workers)


def _check_made_from(fleet: Fleet, *, resume: bool) -> bool:
    """Return whether there is a fleet to go on with, and keep what this one is made from.

    Raises:
        FederationError: It was made from something else.
    """
    path = fleet.config.folder / MADE_FROM
    is_there = resume and path.exists()
    if is_there and json.loads(path.read_text(encoding="utf-8")) != fleet.fingerprint:
        raise FederationError(
            f"{path.parent}: what is there was made with other settings, data or models; begin "
            "anew without --resume, or with the settings it had"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_there:
        (path.parent / RESULT).unlink(missing_ok=True)
        _write(path, fleet.fingerprint)
    return is_there


def _write(path: Path, content: object) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode())
