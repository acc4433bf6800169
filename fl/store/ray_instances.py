"""The serverless cache of many machines: actors of Ray hold entries and work where these are.

An actor that is lost takes what it held with it. That is noticed at the next request: another actor
takes its place, what it held is read again from where it is kept for good, and the request is run
again.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from threadpoolctl import threadpool_limits

from hocket.fl.core.errors import ConfigError, FederationError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store.cache import ATTEMPTS, InstanceLostError, Usage, died_too_often
from hocket.fl.store.instance import ERRORS, Models
from hocket.fl.store.workloads.workload import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

START_SECONDS = 120.0


class _Function:
    """An actor with entries in its memory."""

    def __init__(self, make_model: str) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}
        self._models = Models(make_model)
        threadpool_limits(1)

    def process(self) -> int:
        import os

        return os.getpid()

    def hold(self, key: str, content: NDArray[np.uint8]) -> None:
        # A view of the machine's store of objects, where it stays as long as somebody has it.
        self._held[key] = content

    def drop(self, key: str) -> None:
        self._held.pop(key, None)

    def fetch(self, key: str) -> NDArray[np.uint8]:
        return self._held[key]

    def run(
        self,
        workload: str,
        facts: Mapping[str, Any],
        keys: list[str],
        brought: list[str],
        *arrays: NDArray[np.uint8],
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Run work on what is held, and on arrays of what was brought."""
        here = self._held | dict(zip(brought, arrays, strict=True))
        contents = [(Key.parse(key), here[key].data) for key in keys]
        answer = self._models.run(workload, facts, contents)
        return dict(answer.values), dict(answer.arrays)


_Actor: Any = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)(_Function)


@dataclass(eq=False)
class _Place:
    """Where a function is, and what it holds."""

    number: int
    actor: Any
    process: int
    held: dict[Key, int] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(self.held.values())


class RayInstances:
    """Holds entries in actors of a Ray cluster that is connected already; see ``Cache``.

    Updates of a round go to one actor, as far as there is room, so that work on the round moves
    nothing.

    Args:
        capacity_bytes: Of all actors.
        restore: Reads an entry from where it is kept for good, for an actor in a lost one's place.
        num_functions: Actors.
        replicas: How many of them hold the same, so that a loss needs no reading.
        request_seconds: After which a request has failed, and its actor is stopped.
        make_model: As ``Instances`` takes it.

    Raises:
        ConfigError: There are fewer actors than replicas, or no cluster.
    """

    def __init__(
        self,
        capacity_bytes: int,
        restore: Callable[[Key], bytes | memoryview],
        num_functions: int = 2,
        replicas: int = 1,
        request_seconds: float = 120.0,
        make_model: str = "",
    ) -> None:
        if not 1 <= replicas <= num_functions:
            raise ConfigError(f"want 1 to {num_functions} replicas, got {replicas}")
        if not ray.is_initialized():
            raise ConfigError("there is no Ray cluster: call ray.init first")
        self.capacity_bytes = capacity_bytes
        self._restore, self._replicas = restore, replicas
        self._request_seconds, self._make_model = request_seconds, make_model
        self._room = capacity_bytes // num_functions
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._places = [self._start(number) for number in range(num_functions)]

    def hold(self, key: Key, content: bytes | memoryview) -> bool:
        """Hold an entry, in the place of what was held under its key."""
        array = np.frombuffer(content, np.uint8)
        with self._lock:
            self.drop(key)
            places = self._choose(key, len(array))
            for place in places:
                place.held[key] = len(array)
        for place in places:
            self._put(place, key, array)
        return bool(places)

    def drop(self, key: Key) -> None:
        """Let go of an entry."""
        with self._lock:
            for place in self._places:
                if place.held.pop(key, None) is not None:
                    place.actor.drop.remote(str(key))

    def holds(self, key: Key) -> bool:
        """Return whether an entry is held."""
        with self._lock:
            return any(key in place.held for place in self._places)

    @contextmanager
    def reading(self, keys: Sequence[Key]) -> Iterator[dict[Key, memoryview]]:
        """Give the bytes of those entries that are held, as copies on this machine."""
        found = {}
        for key in keys:
            place = self._place_of(key)
            if place is not None:
                try:
                    content = self._ask(place, place.actor.fetch.remote(str(key)))
                except (KeyError, InstanceLostError):
                    # Dropped or lost by now: it is held no more.
                    continue
                found[key] = memoryview(content).toreadonly()
        yield found

    def run(
        self,
        workload: str,
        facts: Mapping[str, Any],
        keys: Sequence[Key],
        read: Callable[[Key], bytes | memoryview],
    ) -> Answer:
        """Run work where most of its entries are, and again if an actor is lost."""
        started, is_sure = time.monotonic(), True
        for attempt in range(ATTEMPTS):
            home = self._home_of(keys)
            away = [key for key in keys if not is_sure or key not in home.held]
            try:
                references = [self._bring(key, home, read) for key in away]
                names = [[str(key) for key in each] for each in (keys, away)]
                answer = home.actor.run.remote(workload, dict(facts), *names, *references)
                values, arrays = self._ask(home, answer)
            except (InstanceLostError, KeyError) as error:
                # What an actor should hold, and does not, has been dropped, or is on its way there.
                is_sure = not isinstance(error, KeyError)
                with self._lock:
                    self._counts["retries"] += attempt + 1 < ATTEMPTS
                continue
            with self._lock:
                self._counts["requests"] += 1
                self._seconds["busy"] += time.monotonic() - started
            return Answer(values, arrays)
        raise died_too_often(workload)

    def usage(self) -> Usage:
        """Return what actors have done so far."""
        with self._lock:
            held = sum(place.num_bytes for place in self._places)
            return Usage(
                len(self._places),
                self._counts["requests"],
                self._counts["lost"],
                self._counts["retries"],
                self._counts["cold starts"],
                self._seconds["cold starts"],
                self._seconds["busy"],
                held,
                held,
            )

    def processes(self) -> list[int]:
        """Return the process numbers of all actors, each on its own machine."""
        with self._lock:
            return [place.process for place in self._places]

    def close(self) -> None:
        """Stop all actors."""
        with self._lock:
            places, self._places = self._places, []
        for place in places:
            ray.kill(place.actor)

    def _start(self, number: int) -> _Place:
        started = time.monotonic()
        actor = _Actor.remote(self._make_model)
        process = ray.get(actor.process.remote(), timeout=START_SECONDS)
        with self._lock:
            self._counts["cold starts"] += 1
            self._seconds["cold starts"] += time.monotonic() - started
        return _Place(number, actor, process)

    def _choose(self, key: Key, num_bytes: int) -> list[_Place]:
        """Return where an entry is to be: its round's actors, or those with room."""
        first = zlib.crc32(f"{key.job}/{key.round}".encode()) % len(self._places)
        order = [*self._places[first:], *self._places[:first]]
        roomy = [place for place in order if place.num_bytes + num_bytes <= self._room]
        return roomy[: self._replicas]

    def _place_of(self, key: Key) -> _Place | None:
        with self._lock:
            return next((place for place in self._places if key in place.held), None)

    def _home_of(self, keys: Sequence[Key]) -> _Place:
        with self._lock:
            return max(
                self._places,
                key=lambda place: (sum(place.held.get(key, 0) for key in keys), -place.number),
            )

    def _bring(self, key: Key, home: _Place, read: Callable[[Key], bytes | memoryview]) -> Any:
        """Return an entry from another actor, without coming by here, or as it is kept for good."""
        place = self._place_of(key)
        if place is not None and place is not home:
            return place.actor.fetch.remote(str(key))
        return ray.put(np.frombuffer(read(key), np.uint8))

    def _put(self, place: _Place, key: Key, array: NDArray[np.uint8]) -> None:
        try:
            self._ask(place, place.actor.hold.remote(str(key), array))
        except InstanceLostError:
            # Whoever replaced the actor has read again what it was to hold.
            return

    def _ask(self, place: _Place, reference: Any) -> Any:
        """Return an actor's answer.

        Raises:
            InstanceLostError: It is lost, and replaced by now.
            FederationError: It took too long, and was stopped.
        """
        try:
            return ray.get(reference, timeout=self._request_seconds)
        except RayTaskError as error:
            cause: Any = error.cause
            if isinstance(cause, (*ERRORS.values(), KeyError)):
                raise cause from None  # type: ignore[misc]
            if isinstance(cause, RayActorError):
                # One that was to bring something is lost.
                self._replace_dead()
                raise InstanceLostError(str(cause)) from error
            raise
        except RayActorError as error:
            self._replace(place)
            raise InstanceLostError(f"function {place.number}: {error}") from error
        except GetTimeoutError as error:
            ray.kill(place.actor)
            self._replace(place)
            raise FederationError(
                f"a request took more than {self._request_seconds:g} s; its function is stopped"
            ) from error

    def _replace_dead(self) -> None:
        for place in list(self._places):
            try:
                ray.get(place.actor.process.remote(), timeout=START_SECONDS)
            except RayActorError:
                self._replace(place)

    def _replace(self, lost: _Place) -> None:
        """Put a new actor in a lost one's place, with all that it held."""
        with self._lock:
            if lost not in self._places:
                return
            self._counts["lost"] += 1
            place = self._start(lost.number)
            self._places[self._places.index(lost)] = place
            for key, num_bytes in lost.held.items():
                try:
                    array = np.frombuffer(self._restore(key), np.uint8)
                except (KeyError, StoreError):
                    # Forgotten meanwhile, or damaged: the next who reads it is told.
                    continue
                place.held[key] = num_bytes
                place.actor.hold.remote(str(key), array)
