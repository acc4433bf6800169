"""The rounds of Photon: whom the server asks, which replies it takes, and what becomes of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.coordinator import Checkpoints
from hocket.fl.core.devices import DeviceRequest, FifoScheduler, gather
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.parameters import digest_of, num_bytes
from hocket.fl.core.seeds import derive_seed, generator_for
from hocket.fl.core.server_optimizer import Sgd
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, RoundReport
from hocket.fl.photon.aggregation import StreamingMean
from hocket.fl.photon.client import (
    CLIP,
    CURSOR,
    DIGEST,
    JOB,
    LAST_ROUND,
    SCHEME,
    SECONDS,
    SEQUENCES,
)
from hocket.fl.photon.guard import cosine_of, norm_of
from hocket.fl.photon.ledger import Account, Ledger
from hocket.fl.photon.link import Label, unpack, wire_bytes
from hocket.fl.photon.privacy import SERVER, clipped
from hocket.fl.photon.rounds import Round, train_metrics
from hocket.fl.photon.subfederation import MACHINES
from hocket.fl.photon.wall_time import PARAMETER_SERVER, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.clock import Clock
    from hocket.fl.core.coordinator import Plan, Progress
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.recording import Recording
    from hocket.fl.core.store import Store
    from hocket.fl.photon.recipe import Recipe

LEDGER, OPTIMIZER, DIRECTION = "ledger", "optimizer", "direction"
"""What a state keeps beside parameters; the last two are before the names of arrays."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotonServer:
    """Trains a model by the recipe.

    A reply is judged as it comes, added to the mean, and forgotten. A round that is over is in the
    store before the next one begins; it has the model, what the optimizer keeps, how far each
    client has read, and nothing else is needed to go on with the same bits after a crash.

    Attributes:
        plan: How long. Its timeout is not used: the recipe's deadline is.
        recipe: How.
        engine, store, clock: What it is built from.
        observers: Who is told.
        evaluate: The server's own evaluation of parameters, if it has any.
        scheduler: Gives clients, where others want them, too.
        recording: Keeps every round, if anything does. Of updates that nobody is to see, none.
    """

    plan: Plan
    recipe: Recipe
    engine: Engine
    store: Store
    clock: Clock
    observers: Sequence[Observer] = ()
    evaluate: Callable[[Parameters], Mapping[str, float]] | None = None
    scheduler: DeviceScheduler = field(default_factory=FifoScheduler)
    recording: Recording | None = None

    @property
    def checkpoints(self) -> Checkpoints:
        """What keeps the rounds that are over."""
        return Checkpoints(self.plan, self.store)

    def begin(self, parameters: Parameters) -> Progress:
        """Return the start of a run, and keep it; one of this name in the store is replaced."""
        kept: dict[str, NDArray[Any]] = {LEDGER: Ledger().to_array()}
        started = self.recipe.server_optimizer.start(parameters)
        kept |= {f"{OPTIMIZER}/{name}": array for name, array in started.items()}
        return self.checkpoints.begin(ServerState(parameters, kept))

    def resume(self) -> Progress:
        """Return how far the run in the store has come.

        Raises:
            FederationError: There is none, or it was made from something else.
        """
        return self.checkpoints.resume()

    def run(self, progress: Progress) -> Progress:
        """Run the rounds that are left and return how it ended."""
        while progress.round < self.plan.num_rounds:
            progress = self.run_round(progress)
        return progress

    def run_round(self, progress: Progress) -> Progress:
        """Run one round and return how far it has brought the run."""
        number, state, started = progress.round + 1, progress.state, self.clock.now()
        ledger = ledger_of(state)
        tasks = self._tasks(number, state.parameters, ledger)
        current = Round(
            number=number,
            started=started,
            learning=self._learning(ledger.steps),
            tasks={task.device_id: task for task in tasks},
            mean=StreamingMean(state.parameters, max(1, sum(map(self._tokens, tasks)))),
            direction=_group(state.kept, DIRECTION),
            ledger=ledger,
        )
        self._collect(current, tasks, state.parameters)
        change = self._mean(current, tasks)
        has_quorum = bool(change)
        state = self._next_state(state, current, len(tasks), change)
        if self.recording is not None and has_quorum:
            total = sum(current.recorded.values())
            shares = {name: count / total for name, count in current.recorded.items()}
            self.recording.model(number, state.parameters, shares)
        report = RoundReport(
            round=number,
            num_tasks=len(tasks),
            num_updates=len(current.accounts),
            num_failures=len(tasks) - len(current.accounts),
            has_quorum=has_quorum,
            train_metrics=train_metrics(current, ledger_of(state), change)
            | self._privacy_metrics(current, ledger_of(state)),
            evaluate_metrics=self._evaluate(number, state.parameters),
            digest=digest_of(state.parameters),
            seconds=self.clock.now() - started,
            failures=tuple(sorted(current.failures)),
            exchange_seconds=max(0.0, min(current.exchanges, default=0.0)),
        )
        found = self.checkpoints.keep(progress, state, report)
        for observer in self.observers:
            observer.finished(report)
        return found

    def _tasks(self, number: int, parameters: Parameters, ledger: Ledger) -> list[ClientTask]:
        devices = sorted(self.engine.devices(), key=lambda device: device.device_id)
        if not devices:
            return []
        machines = {device.device_id: int(device.attributes.get(MACHINES, 1)) for device in devices}
        is_weighted = self.recipe.secure is None and self.recipe.privacy is None
        if not is_weighted and len(set(machines.values())) > 1:
            raise ConfigError("where no update is seen, or none may show, all weigh the same")
        request = DeviceRequest(self.plan.job, self.recipe.clients_per_round or len(devices))
        order = generator_for(self.plan.seed, "clients", number).permutation(len(devices))
        got = gather(self.scheduler, request, [devices[index] for index in order])
        training = replace(self.recipe.training, first_step=ledger.steps)
        shared = training.to_config() | {
            JOB: self.plan.job,
            DIGEST: digest_of(parameters),
            SCHEME: self.recipe.scheme,
        }
        if self.recipe.privacy is not None:
            shared[CLIP] = self.recipe.privacy.clip_norm
        return [
            ClientTask(
                round=number,
                device_id=name,
                kind="train",
                seed=derive_seed(self.plan.seed, "train", number, name),
                config={
                    **shared,
                    SEQUENCES: self.recipe.sequences * machines[name],
                    CURSOR: ledger.account(name).cursor,
                    LAST_ROUND: ledger.account(name).last_round,
                },
            )
            for name in sorted(device.device_id for device in got)
        ]

    def _tokens(self, task: ClientTask) -> int:
        return int(task.config[SEQUENCES]) * self.recipe.context

    def _mean(
        self, current: Round, tasks: Sequence[ClientTask]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Return the mean change; nothing if too few answered, or it stays hidden."""
        needed = max(1, int(np.ceil(self.recipe.quorum * len(tasks))))
        if len(current.accounts) < needed:
            current.failures.append(
                f"{len(current.accounts)} of {len(tasks)} updates came, {needed} are needed"
            )
            return {}
        if current.secure is None:
            mean = current.mean.mean()
        else:
            try:
                mean = current.secure.mean(tasks)
            except UpdateError as error:
                current.failures.append(str(error))
                return {}
        privacy = self.recipe.privacy
        if privacy is not None and privacy.noise_by == SERVER:
            from hocket.fl.photon.noise import with_noise

            mean = with_noise(mean, privacy.scale / len(current.accounts))
        return mean

    def _learning(self, steps: int) -> float:
        training = replace(self.recipe.training, first_step=steps)
        return sum(training.learning_rate_at(step) for step in range(self.recipe.local_steps))

    def _collect(self, current: Round, tasks: Sequence[ClientTask], parameters: Parameters) -> None:
        if not tasks:
            return
        for observer in self.observers:
            observer.started(current.number, tasks)
        seconds = self.recipe.deadline.seconds(current.ledger.arrivals)
        if self.recipe.secure is not None:
            # Secrets take packages that other runs do without.
            from hocket.fl.photon.secure_round import make_secure_round

            current.secure = make_secure_round(
                self.recipe, self.engine, parameters, len(tasks), current.learning, seconds
            )
            tasks = current.secure.prepare(tasks)
            current.tasks = {task.device_id: task for task in tasks}
            current.started = self.clock.now()
        for answer in self.engine.run(tasks, parameters, seconds):
            reply = answer
            if isinstance(reply, ClientUpdate):
                try:
                    self._take(current, reply, parameters)
                except UpdateError as error:
                    reply = ClientFailure(reply.round, reply.device_id, reply.kind, str(error))
            if isinstance(reply, ClientFailure):
                current.failures.append(str(reply))
                _log.warning("%s", reply)
            for observer in self.observers:
                observer.replied(reply)

    def _take(self, current: Round, reply: ClientUpdate, parameters: Parameters) -> None:
        """Add an update to the mean.

        Raises:
            UpdateError: Why it is not to be believed; nothing has been added then.
        """
        name = reply.device_id
        current.uploaded_bytes += wire_bytes(reply.parameters)
        if reply.round != current.number:
            raise UpdateError(f"it is of round {reply.round}, and this is {current.number}")
        if name not in current.tasks:
            raise UpdateError("it has answered already, or was not asked")
        task = current.tasks.pop(name)
        wanted = self._tokens(task)
        if reply.num_examples != wanted:
            raise UpdateError(f"it was to train on {wanted} tokens, and says {reply.num_examples}")
        label = Label(self.plan.job, current.number, name)
        if current.secure is not None:
            scheme = current.secure.lattice.scheme
            current.secure.add(name, dict(unpack(reply.parameters, label, parameters, scheme)))
        else:
            change = dict(unpack(reply.parameters, label, parameters, self.recipe.scheme))
            self._add(current, name, change, reply.num_examples)
            if self.recording is not None and self.recipe.privacy is None:
                trained = {
                    key: (array + change[key]).astype(array.dtype)
                    for key, array in parameters.items()
                }
                self.recording.update(
                    current.number, name, trained, reply.num_examples, reply.metrics
                )
                current.recorded[name] = reply.num_examples
        before = current.ledger.account(name)
        current.accounts[name] = Account(
            cursor=before.cursor + int(task.config[SEQUENCES]),
            last_round=current.number,
            tokens=before.tokens + reply.num_examples,
            num_updates=before.num_updates + 1,
        )
        current.arrivals[name] = self.clock.now() - current.started
        metrics = dict(reply.metrics)
        current.exchanges.append(current.arrivals[name] - metrics.pop(SECONDS, 0.0))
        current.metrics[name] = metrics

    def _add(
        self, current: Round, name: str, change: dict[str, NDArray[Any]], num_tokens: int
    ) -> None:
        if self.recipe.privacy is not None:
            # What clients may add has a bound, so nothing that is told need depend on it.
            current.mean.add(clipped(change, self.recipe.privacy.clip_norm), 1)
            return
        norm = norm_of(change) / current.learning
        cosine = cosine_of(change, current.direction) if current.direction else None
        objection = self.recipe.guard.objection(norm, cosine, current.ledger.norms)
        if objection:
            raise UpdateError(objection)
        current.mean.add(change, num_tokens)
        current.norms[name] = norm
        if cosine is not None:
            current.cosines[name] = cosine

    def _next_state(
        self,
        state: ServerState,
        current: Round,
        num_tasks: int,
        change: Mapping[str, NDArray[Any]],
    ) -> ServerState:
        """Return the state after a round; with no change, that of a round that does not count."""
        up, down = current.uploaded_bytes, num_tasks * num_bytes(state.parameters)
        if self.recipe.topology != PARAMETER_SERVER and up:
            up = round(Exchange(self.recipe.topology, num_tasks, up / num_tasks).total_bytes)
            down = 0
        if current.secure is not None:
            up += current.secure.uploaded_bytes
            down += current.secure.downloaded_bytes
            current.failures += [str(each) for each in current.secure.failures]
        ledger = replace(
            current.ledger,
            uploaded_bytes=current.ledger.uploaded_bytes + up,
            downloaded_bytes=current.ledger.downloaded_bytes + down,
        )
        if not change:
            return ServerState(state.parameters, {**state.kept, LEDGER: ledger.to_array()})
        names = sorted(current.accounts)
        ledger = ledger.after_round(
            current.accounts,
            self.recipe.local_steps,
            tuple(current.norms[name] for name in names if name in current.norms),
            tuple(current.arrivals[name] for name in names),
        )
        optimizer = self.recipe.server_optimizer
        steps = change
        keeping: Mapping[str, NDArray[Any]] = {}
        if optimizer != Sgd():
            steps, keeping = optimizer.step(change, _group(state.kept, OPTIMIZER))
        moved = {
            name: (array.astype(np.float64) + steps[name]).astype(array.dtype)
            for name, array in state.parameters.items()
        }
        kept = {f"{OPTIMIZER}/{name}": array for name, array in keeping.items()}
        if self.recipe.guard.min_cosine > -1 and current.norms:
            kept |= {f"{DIRECTION}/{n}": array.astype(np.float32) for n, array in change.items()}
        return ServerState(moved, kept | {LEDGER: ledger.to_array()})

    def _privacy_metrics(self, current: Round, after: Ledger) -> dict[str, float]:
        privacy = self.recipe.privacy
        if privacy is None:
            return {}
        multiplier = None if current.secure is None else current.secure.noise_multiplier
        most = max((each.num_updates for each in after.accounts.values()), default=0)
        return {"epsilon": privacy.epsilon(most, multiplier), "delta": privacy.delta}

    def _evaluate(self, number: int, parameters: Parameters) -> dict[str, float]:
        is_due = number % self.plan.evaluate_every == 0 or number == self.plan.num_rounds
        if self.evaluate is None or not is_due:
            return {}
        return {f"server_{name}": value for name, value in self.evaluate(parameters).items()}


def ledger_of(state: ServerState) -> Ledger:
    """Return the ledger that a state holds."""
    return Ledger.from_array(state.kept[LEDGER])


def _group(kept: Mapping[str, NDArray[Any]], group: str) -> dict[str, NDArray[Any]]:
    start = f"{group}/"
    return {name[len(start) :]: array for name, array in kept.items() if name.startswith(start)}
