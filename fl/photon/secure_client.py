"""A client of Photon that gives its updates away in sums alone.

A round is four tasks: it shows keys, hands shares of its secrets round, trains and sends what it
has learned under masks, and in the end gives the shares that take the masks off the sum. Between
them its secrets lie in its store, which must be on a disk of its own; after the last they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.parameters import decode_arrays, encode_arrays
from hocket.fl.core.store import Key
from hocket.fl.core.types import ClientUpdate
from hocket.fl.photon.client import CLIP, JOB
from hocket.fl.photon.lattice import Lattice
from hocket.fl.photon.link import Label, pack
from hocket.fl.photon.noise import SecretNoise
from hocket.fl.photon.secure_sum import Public, Secrets, mask, reveal, share_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.types import ClientTask
    from hocket.fl.photon.client import PhotonClient
    from hocket.fl.photon.subfederation import SubFederation

PHASE, PEERS, SURVIVORS, THRESHOLD = (
    "photon_phase",
    "photon_peers",
    "photon_survivors",
    "photon_threshold",
)
BITS, STEP, LARGEST, NOISE = "photon_bits", "photon_step", "photon_largest", "photon_noise"
"""What a task of a secure round says beside those of Photon. Names are put together with commas."""

KEYS, SHARES, UPDATE, REVEAL = "keys", "shares", "update", "reveal"
"""The tasks of a secure round."""

KEPT = "secrets"
_SECRETS, _NEEDED, _USED, _PUBLIC = "secrets", "needed", "used", "public"


@dataclass
class SecureClient:
    """A client of any device. It refuses to send an update without masks.

    Attributes:
        learner: What trains; it sends through this.
        make_noise: Of tests, that want to know it.
    """

    learner: PhotonClient | SubFederation
    make_noise: Callable[[], SecretNoise] = SecretNoise

    def __post_init__(self) -> None:
        self.learner = replace(self.learner, sender=self)

    @property
    def store(self) -> Store:
        """What the client keeps."""
        return self.learner.store

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Do one of the tasks of a secure round.

        Raises:
            ConfigError: It is none.
            UpdateError: What others sent was tampered with, or a secret would come out.
        """
        phase = task.config.get(PHASE)
        if phase == UPDATE:
            return self.learner.run(task, parameters)
        answers = {KEYS: self._show_keys, SHARES: self._share, REVEAL: self._reveal}
        if phase not in answers:
            raise ConfigError(f"{task}: this client sends its updates under masks alone")
        answer = answers[str(phase)](task, parameters)
        return ClientUpdate(task.round, task.device_id, task.kind, answer, 1, {})

    def send(
        self, task: ClientTask, change: Mapping[str, NDArray[Any]]
    ) -> tuple[Parameters, Mapping[str, NDArray[Any]]]:
        """Return a change under masks, and what is lost of it.

        Raises:
            UpdateError: Masks of this round have been used, and two changes under one mask would
                tell how they differ; or too few would hide it.
        """
        config, kept = task.config, self._recall(task)
        peers = str(config[PEERS]).split(",")
        if _USED in kept:
            raise UpdateError(f"{task}: the masks of this round have been used")
        if _NEEDED not in kept or len(peers) < kept[_NEEDED]:
            raise UpdateError(f"{task}: too few would hide its change: {peers}")
        lattice = Lattice(float(config[STEP]), int(config[LARGEST]), int(config[BITS]))
        numbers = lattice.round(change, is_private=CLIP in config)
        values = lattice.values(numbers)
        lost = {name: change[name] - values[name].astype(np.float32) for name in change}
        scale = float(config.get(NOISE, 0.0))
        if scale:
            noise = self.make_noise()
            numbers = {
                name: array + noise.draw(scale, array.size).reshape(array.shape)
                for name, array in sorted(numbers.items())
            }
        masked = mask(
            lattice.wrap(numbers),
            Secrets.from_array(kept[_SECRETS]),
            task.device_id,
            _publics(kept, peers),
            _context(task),
        )
        self._keep(task, {**kept, _USED: np.ones(1, np.uint8)})
        label = Label(str(config[JOB]), task.round, task.device_id)
        return pack(label, masked, lattice.scheme), lost

    def _show_keys(self, task: ClientTask, parameters: Parameters) -> Parameters:
        del parameters
        for key in self.store.keys(f"{task.config[JOB]}/"):
            if key.device == task.device_id and key.kind == KEPT:
                self.store.delete(key)
        secrets = Secrets.draw()
        self._keep(task, {_SECRETS: secrets.to_array()})
        return {_PUBLIC: secrets.public().to_array()}

    def _share(self, task: ClientTask, parameters: Parameters) -> Parameters:
        kept, needed = self._recall(task), int(task.config[THRESHOLD])
        shown = {f"{_PUBLIC}/{name}": array for name, array in parameters.items()}
        sealed = share_out(
            Secrets.from_array(kept[_SECRETS]),
            task.device_id,
            _publics(shown, parameters),
            needed,
            _context(task),
        )
        # Who would take part in a round twice, with other clients, would give shares of both.
        if len(kept) > 1:
            raise UpdateError(f"{task}: its shares have been handed round already")
        self._keep(task, {_SECRETS: kept[_SECRETS], _NEEDED: np.array([needed]), **shown})
        return {name: np.frombuffer(content, np.uint8) for name, content in sealed.items()}

    def _reveal(self, task: ClientTask, parameters: Parameters) -> Parameters:
        kept, me = self._recall(task), task.device_id
        if _NEEDED not in kept:
            raise UpdateError(f"{task}: its shares have not been handed round")
        peers = str(task.config[PEERS]).split(",")
        found = reveal(
            Secrets.from_array(kept[_SECRETS]),
            me,
            _publics(kept, peers),
            {name: parameters[f"{name}/{me}"].tobytes() for name in peers},
            str(task.config[SURVIVORS]).split(","),
            # As it was when shares were made, whatever is said now.
            int(kept[_NEEDED][0]),
            _context(task),
        )
        # Asked a second time, it would give the other half of what must not come together.
        self.store.delete(self._key(task))
        return {name: np.frombuffer(content, np.uint8) for name, content in found.items()}

    def _recall(self, task: ClientTask) -> dict[str, NDArray[Any]]:
        try:
            return decode_arrays(self.store.get(self._key(task)), KEPT)
        except KeyError:
            raise UpdateError(f"{task}: it keeps no secrets of this round") from None

    def _keep(self, task: ClientTask, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.store.put(self._key(task), encode_arrays(arrays))

    def _key(self, task: ClientTask) -> Key:
        return Key(str(task.config[JOB]), task.round, task.device_id, KEPT)


def _publics(arrays: Mapping[str, NDArray[Any]], names: Any) -> dict[str, Public]:
    found = {}
    for name in names:
        if f"{_PUBLIC}/{name}" not in arrays:
            raise UpdateError(f"client {name!r} has shown no keys in this round")
        found[name] = Public.from_array(arrays[f"{_PUBLIC}/{name}"], f"keys of {name!r}")
    return found


def _context(task: ClientTask) -> str:
    return f"{task.config[JOB]}/{task.round}"
