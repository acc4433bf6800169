"""The loop over rounds, built from the protocols of this package and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from hocket.fl.core.aggregation import mean_metrics
from hocket.fl.core.devices import gather
from hocket.fl.core.errors import ConfigError, FederationError, UpdateError
from hocket.fl.core.parameters import check_alike, decode_arrays, digest_of, encode_arrays
from hocket.fl.core.seeds import generator_for
from hocket.fl.core.store import Key
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientFailure, ClientUpdate, RoundReport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.core.clock import Clock
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.strategy import Strategy
    from hocket.fl.core.types import ClientTask, Device, Setting

SERVER = "server"
STATE, REPORT, FINGERPRINT = "state", "report", "fingerprint"


@dataclass(frozen=True)
class Plan:
    """How long a federation goes on, and what it keeps.

    Attributes:
        job: Its name, under which its entries are in the store.
        num_rounds: Rounds in all, those of a federation that is resumed included.
        seed: Of everything that is random.
        evaluate_every: Rounds from one evaluation to the next; the last round always has one.
        timeout_seconds: Time that devices have for a round; None for as long as it takes.
        keep_states: Rounds whose state is kept, the last ones.
        fingerprint: What the federation was made from, in a word; one that is resumed must have
            the same.

    Raises:
        ConfigError: A number is out of range.
    """

    job: str
    num_rounds: int
    seed: int = 0
    evaluate_every: int = 1
    timeout_seconds: float | None = None
    keep_states: int = 2
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name in ("num_rounds", "evaluate_every", "keep_states"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.timeout_seconds is not None and self.timeout_seconds <= 0:
            raise ConfigError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a federation has come.

    Attributes:
        round: The last round that is over; 0 before the first.
        state: After it.
        reports: Of all rounds up to it.
    """

    round: int
    state: ServerState
    reports: tuple[RoundReport, ...]

    @property
    def digest(self) -> str:
        """Of the parameters."""
        return digest_of(self.state.parameters)


@dataclass(frozen=True)
class Checkpoints:
    """Keeps rounds that are over, so that a federation goes on where it was.

    Attributes:
        plan: Of the federation.
        store: Where they are.
    """

    plan: Plan
    store: Store

    def begin(self, state: ServerState) -> Progress:
        """Return the start of a federation, and keep it.

        What the store holds of an earlier federation of this name is deleted.
        """
        for key in self.store.keys(f"{self.plan.job}/"):
            if key.device == SERVER:
                self.store.delete(key)
        self.store.put(self._key(0, FINGERPRINT), self.plan.fingerprint.encode())
        self.store.put(self._key(0, STATE), encode_state(state))
        return Progress(0, state, ())

    def resume(self) -> Progress:
        """Return how far the federation in the store has come.

        Raises:
            FederationError: There is none, or it was made from something else.
        """
        job = self.plan.job
        rounds = [key.round for key in self.store.keys(f"{job}/") if key.kind == STATE]
        if not rounds:
            raise FederationError(f"job {job!r}: there is nothing to resume in the store")
        if self.store.get(self._key(0, FINGERPRINT)).decode() != self.plan.fingerprint:
            raise FederationError(
                f"job {job!r}: what is in the store was made with other settings, data or model; "
                "begin anew under another name, or with the settings it had"
            )
        last = max(rounds)
        reports = tuple(
            decode_report(self.store.get(self._key(number, REPORT)))
            for number in range(1, last + 1)
        )
        state = decode_state(self.store.get(self._key(last, STATE)))
        return Progress(last, state, reports)

    def keep(self, progress: Progress, state: ServerState, report: RoundReport) -> Progress:
        """Keep a round that is over, and return how far it has brought the federation."""
        number = report.round
        # The state last: a round is over when it is there.
        self.store.put(self._key(number, REPORT), encode_report(report))
        self.store.put(self._key(number, STATE), encode_state(state))
        for key in self.store.keys(f"{self.plan.job}/"):
            if key.kind == STATE and key.round <= number - self.plan.keep_states:
                self.store.delete(key)
        return Progress(number, state, (*progress.reports, report))

    def _key(self, number: int, kind: str) -> Key:
        return Key(self.plan.job, number, SERVER, kind)


@dataclass(frozen=True)
class Coordinator:
    """Runs a federation.

    A round that is over is in the store before the next one begins, so a federation whose process
    is killed goes on from there with the same bits as if it had not been.

    Attributes:
        plan: How long.
        strategy, engine, scheduler, store, clock: What it is built from.
        observers: Who is told.
        evaluate: The server's own evaluation of parameters, if it has any.
        settings: What every task says beside what the strategy wants, such as the digest of the
            artifact that is trained.
    """

    plan: Plan
    strategy: Strategy
    engine: Engine
    scheduler: DeviceScheduler
    store: Store
    clock: Clock
    observers: Sequence[Observer] = ()
    evaluate: Callable[[Parameters], Mapping[str, float]] | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Checkpoints:
        """What keeps the rounds that are over."""
        return Checkpoints(self.plan, self.store)

    def begin(self, parameters: Parameters) -> Progress:
        """Return the start of a federation, and keep it.

        What the store holds of an earlier federation of this name is deleted.
        """
        return self.checkpoints.begin(self.strategy.initialize(parameters))

    def resume(self) -> Progress:
        """Return how far the federation in the store has come.

        Raises:
            FederationError: There is none, or it was made from something else.
        """
        return self.checkpoints.resume()

    def run(self, progress: Progress) -> Progress:
        """Run the rounds that are left, or as many as the strategy wants; return how it ended."""
        while progress.round < self.plan.num_rounds and not self.strategy.is_finished(
            progress.state
        ):
            progress = self.run_round(progress)
        return progress

    def run_round(self, progress: Progress) -> Progress:
        """Run one round and return how far it has brought the federation."""
        number, started = progress.round + 1, self.clock.now()
        devices = self.engine.devices()
        assigned = self._get_devices(number, devices)
        tasks = self.strategy.configure(progress.state, number, assigned, self.plan.seed, "train")
        updates, failures = self._run_tasks(number, tasks, progress.state)
        needed = max(1, self.strategy.num_updates_needed(len(tasks)))
        has_quorum = len(updates) >= needed
        state = progress.state
        if has_quorum:
            state = self.strategy.aggregate(state, updates)
        else:
            failures.append(f"{len(updates)} of {len(tasks)} updates came, {needed} are needed")
        metrics, lost = self._evaluate(number, devices, state)
        report = RoundReport(
            round=number,
            num_tasks=len(tasks),
            num_updates=len(updates),
            num_failures=len(tasks) - len(updates),
            has_quorum=has_quorum,
            train_metrics=mean_metrics(updates) if updates else {},
            evaluate_metrics=metrics,
            digest=digest_of(state.parameters),
            seconds=self.clock.now() - started,
            failures=(*failures, *lost),
        )
        found = self.checkpoints.keep(progress, state, report)
        for observer in self.observers:
            observer.finished(report)
        return found

    def _get_devices(self, number: int, devices: Sequence[Device]) -> list[Device]:
        """Return the devices that the scheduler gives to this job, offered in a drawn order."""
        if not devices:
            return []
        request = self.strategy.request(self.plan.job, number, len(devices))
        order = generator_for(self.plan.seed, "offers", number).permutation(len(devices))
        got = gather(self.scheduler, request, [devices[index] for index in order])
        return sorted(got, key=lambda device: device.device_id)

    def _run_tasks(
        self, number: int, tasks: Sequence[ClientTask], state: ServerState
    ) -> tuple[list[ClientUpdate], list[str]]:
        """Return the updates that are fit for use, and what is wrong with the others."""
        updates: list[ClientUpdate] = []
        failures: list[str] = []
        if not tasks:
            return updates, failures
        tasks = [replace(task, config={**task.config, **self.settings}) for task in tasks]
        for observer in self.observers:
            observer.started(number, tasks)
        wanted = {task.device_id: self.strategy.returned(state, task) for task in tasks}
        for answer in self.engine.run(tasks, state.parameters, self.plan.timeout_seconds):
            reply = answer
            if isinstance(reply, ClientUpdate) and reply.kind == "train":
                like = wanted.get(reply.device_id, state.parameters)
                try:
                    check_alike(reply.parameters, like, f"device {reply.device_id!r}")
                except UpdateError as error:
                    reply = ClientFailure(number, reply.device_id, reply.kind, str(error))
            if isinstance(reply, ClientUpdate):
                updates.append(reply)
            else:
                failures.append(str(reply))
            for observer in self.observers:
                observer.replied(reply)
        return updates, sorted(failures)

    def _evaluate(
        self, number: int, devices: Sequence[Device], state: ServerState
    ) -> tuple[dict[str, float], list[str]]:
        if number % self.plan.evaluate_every and number != self.plan.num_rounds:
            return {}, []
        tasks = self.strategy.configure(state, number, devices, self.plan.seed, "evaluate")
        updates, failures = self._run_tasks(number, tasks, state)
        metrics = mean_metrics(updates) if updates else {}
        if self.evaluate is not None:
            found = self.evaluate(state.parameters)
            metrics |= {f"server_{name}": value for name, value in found.items()}
        return metrics, failures


def encode_state(state: ServerState) -> bytes:
    """Return a state as bytes."""
    arrays = {f"parameters/{name}": array for name, array in state.parameters.items()}
    return encode_arrays(arrays | {f"kept/{name}": array for name, array in state.kept.items()})


def decode_state(content: bytes) -> ServerState:
    """Return the state that bytes hold.

    Raises:
        UpdateError: They hold none.
    """
    groups: dict[str, dict[str, object]] = {"parameters": {}, "kept": {}}
    for name, array in decode_arrays(content, "state").items():
        group, _, rest = name.partition("/")
        if group not in groups:
            raise UpdateError(f"state: unknown array {name!r}")
        groups[group][rest] = array
    return ServerState(groups["parameters"], groups["kept"])  # type: ignore[arg-type]


def encode_report(report: RoundReport) -> bytes:
    """Return a report as JSON."""
    return json.dumps(asdict(report)).encode()


def decode_report(content: bytes) -> RoundReport:
    """Return the report that JSON holds."""
    fields = json.loads(content)
    return RoundReport(**{**fields, "failures": tuple(fields["failures"])})
