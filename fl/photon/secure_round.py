"""A round whose server sees the sum of the updates alone: what it asks, and what it makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import UpdateError
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate
from hocket.fl.photon.client import JOB
from hocket.fl.photon.lattice import Lattice, Secure
from hocket.fl.photon.link import wire_bytes
from hocket.fl.photon.privacy import CLIENTS, multiplier_of_sum
from hocket.fl.photon.secure_client import (
    BITS,
    KEYS,
    LARGEST,
    NOISE,
    PEERS,
    PHASE,
    REVEAL,
    SHARES,
    STEP,
    SURVIVORS,
    THRESHOLD,
    UPDATE,
)
from hocket.fl.photon.secure_sum import Public, unmask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.engine import Engine
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import Setting
    from hocket.fl.photon.recipe import Recipe


@dataclass
class SecureRound:
    """The server's side of a secure round.

    Attributes:
        engine: Has the clients.
        lattice: Whose numbers are added up.
        threshold: Clients that must be there to the end.
        noise_scale: Standard deviation of each client's noise, in steps of the lattice.
        seconds: That each of its tasks may take; None for as long as it takes.
        noise_multiplier: Of a Gaussian that hides as much as all clients' noise; None without.
        failures: What went wrong with a client before it was to train, or after.
        uploaded_bytes, downloaded_bytes: Of all but the updates and the model.
    """

    engine: Engine
    lattice: Lattice
    threshold: int
    noise_scale: float
    seconds: float | None
    noise_multiplier: float | None = None
    failures: list[ClientFailure] = field(default_factory=list)
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    _publics: dict[str, Public] = field(default_factory=dict)
    _sealed: dict[str, NDArray[Any]] = field(default_factory=dict)
    _survivors: list[str] = field(default_factory=list)
    _total: dict[str, NDArray[Any]] = field(default_factory=dict)

    def prepare(self, tasks: Sequence[ClientTask]) -> list[ClientTask]:
        """Let clients share their secrets out, and return the tasks of those that did.

        None are returned if too few did.
        """
        shown = self._ask(tasks, {PHASE: KEYS}, {})
        for name, arrays in shown.items():
            try:
                self._publics[name] = Public.from_array(_only(arrays, "public"), f"keys of {name}")
            except UpdateError as error:
                self._fail(tasks, name, error)
        left = [task for task in tasks if task.device_id in self._publics]
        if len(left) < self.threshold:
            return []
        publics = {name: public.to_array() for name, public in self._publics.items()}
        handed = self._ask(left, {PHASE: SHARES, THRESHOLD: self.threshold}, publics)
        for name, arrays in handed.items():
            self._sealed |= {f"{name}/{other}": sealed for other, sealed in arrays.items()}
        self._publics = {name: self._publics[name] for name in sorted(handed)}
        if len(handed) < self.threshold:
            return []
        settings: dict[str, Setting] = {
            PHASE: UPDATE,
            PEERS: ",".join(self._publics),
            STEP: self.lattice.step,
            LARGEST: self.lattice.largest,
            BITS: self.lattice.bits,
            NOISE: self.noise_scale,
        }
        return [
            replace(task, config={**task.config, **settings})
            for task in left
            if task.device_id in handed
        ]

    def add(self, name: str, masked: Mapping[str, NDArray[Any]]) -> None:
        """Add a client's masked numbers to the sum."""
        if not self._total:
            self._total = {
                each: np.zeros(array.shape, self.lattice.dtype) for each, array in masked.items()
            }
        for each, array in masked.items():
            self._total[each] += array
        self._survivors.append(name)

    def mean(self, tasks: Sequence[ClientTask]) -> dict[str, NDArray[np.float64]]:
        """Let clients take the masks off the sum, and return the mean of their changes.

        Args:
            tasks: Of those whose numbers are in the sum.

        Raises:
            UpdateError: Too few are left, or shares are wrong: the sum stays hidden.
        """
        survivors = sorted(self._survivors)
        if len(survivors) < self.threshold:
            raise UpdateError(
                f"{len(survivors)} masked updates came, {self.threshold} are needed: the sum stays "
                "hidden"
            )
        settings: dict[str, Setting] = {
            PHASE: REVEAL,
            PEERS: ",".join(self._publics),
            SURVIVORS: ",".join(survivors),
        }
        alive = [task for task in tasks if task.device_id in set(survivors)]
        given = self._ask(alive, settings, self._sealed)
        revealed = {
            name: {other: share.tobytes() for other, share in arrays.items()}
            for name, arrays in given.items()
        }
        context = f"{tasks[0].config[JOB]}/{tasks[0].round}"
        total = unmask(self._total, self._publics, survivors, revealed, self.threshold, context)
        values = self.lattice.values(self.lattice.unwrap(total))
        return {name: array / len(survivors) for name, array in values.items()}

    def _ask(
        self, tasks: Sequence[ClientTask], settings: Mapping[str, Setting], arrays: Parameters
    ) -> dict[str, Parameters]:
        """Return the answers to small tasks, by client; one that does not answer is out."""
        asked = {
            task.device_id: ClientTask(
                task.round, task.device_id, task.kind, 0, {JOB: task.config[JOB], **settings}
            )
            for task in tasks
        }
        self.downloaded_bytes += len(asked) * wire_bytes(arrays)
        answers: dict[str, Parameters] = {}
        for reply in self.engine.run(list(asked.values()), arrays, self.seconds):
            if isinstance(reply, ClientFailure):
                self.failures.append(reply)
            elif isinstance(reply, ClientUpdate) and reply.device_id in asked:
                self.uploaded_bytes += wire_bytes(reply.parameters)
                answers.setdefault(reply.device_id, reply.parameters)
        return answers

    def _fail(self, tasks: Sequence[ClientTask], name: str, error: UpdateError) -> None:
        task = next(task for task in tasks if task.device_id == name)
        self.failures.append(ClientFailure(task.round, name, task.kind, str(error)))


def make_secure_round(
    recipe: Recipe,
    engine: Engine,
    like: Mapping[str, NDArray[Any]],
    num_clients: int,
    learning: float,
    seconds: float | None,
) -> SecureRound:
    """Return a secure round by a recipe.

    Args:
        recipe: That wants one.
        engine: Has the clients.
        like: Arrays of the shapes of a change.
        num_clients: That are asked.
        learning: Sum of the round's learning rates.
        seconds: That each of its tasks may take.

    Raises:
        ConfigError: There is too little room in the bits, or too little noise for them.
    """
    secure, privacy = recipe.secure or Secure(), recipe.privacy
    threshold = secure.num_needed(num_clients)
    largest = secure.largest_change or learning
    noise = 0.0
    if privacy is not None:
        largest = min(largest, privacy.clip_norm)
        if privacy.noise_by == CLIENTS:
            # Those that must be there to the end have noise enough; the others' is on top.
            noise = privacy.scale / math.sqrt(threshold)
    lattice = Lattice.for_sum(num_clients, largest, secure.bits, noise * math.sqrt(num_clients))
    multiplier = None
    if privacy is not None and noise:
        size = sum(array.size for array in like.values())
        sensitivity = privacy.clip_norm / lattice.step
        multiplier = multiplier_of_sum(sensitivity, noise / lattice.step, threshold, size)
    return SecureRound(engine, lattice, threshold, noise / lattice.step, seconds, multiplier)


def _only(arrays: Parameters, name: str) -> NDArray[Any]:
    if arrays.keys() != {name}:
        raise UpdateError(f"want {name!r} alone, got {sorted(arrays)}")
    return arrays[name]
