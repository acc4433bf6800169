"""What a run of Photon is made of: a decoder, compiled, and clients that can be sent elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.clock import WallClock
from hocket.fl.core.store import FolderStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.subfederation import MACHINES, MachineSequences, SubFederation
from hocket.runtime.artifact import load_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.backends.compiled import CompiledBackend
    from hocket.fl.core.client import Client
    from hocket.fl.photon.shards import ShardClients
    from hocket.fl.photon.sizes import GptSize
    from hocket.runtime.artifact import Artifact


def compile_gpt(
    size: GptSize,
    seed: int = 0,
    max_batch: int = 64,
    *,
    target: str = "host",
    num_threads: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """Return a decoder as a compiled module, which training and evaluation run.

    It is compiled once: rounds change its weights and nothing else.

    Args:
        size: Of the decoder.
        seed: Of the weights it begins with.
        max_batch: Sequences of a batch at most.
        target: The machine to compile for.
        num_threads: Threads that it is tuned for.
        progress: Of the compilation, as ``hocket.compile`` takes it.
    """
    from hocket.fl.photon.gpt import BATCH, Gpt, export_gpt
    from hocket.module import compile  # noqa: A004

    file = export_gpt(Gpt(size, seed), size)
    dims = {BATCH: (1, max_batch)}
    return compile(file, target, dims, num_threads=num_threads, progress=progress).artifact


@dataclass(frozen=True)
class PhotonClients:
    """Makes clients, here or in other processes; see ``ClientFactory``.

    Attributes:
        module: File of the compiled decoder.
        digest: That it must have.
        data: Every client's text.
        store: Folder of what clients keep from round to round.
        num_threads: Threads of torch, in the process where a client is made.
        is_secure: Whether its updates go into secret sums alone.
        num_machines: Of a client that is a node of several; they take turns in its process.
        machine_scheme: How machines send their updates to the node.
    """

    module: str
    digest: str
    data: ShardClients
    store: str
    num_threads: int = 1
    is_secure: bool = False
    num_machines: int = 1
    machine_scheme: str = "float32"

    def device_ids(self) -> list[str]:
        """Return the clients that have text."""
        return self.data.device_ids()

    def attributes(self) -> dict[str, dict[str, float]]:
        """Return what the server has to know of each client, by name."""
        return {name: {MACHINES: float(self.num_machines)} for name in self.device_ids()}

    def __call__(self) -> Client:
        """Return a new client.

        Raises:
            ArtifactError: The module is damaged, or another one.
        """
        import torch

        torch.set_num_threads(self.num_threads)
        artifact = load_artifact(Path(self.module), expected_digest=self.digest)
        backend, store = make_backend(artifact), FolderStore(self.store)
        if self.num_machines > 1:
            machines = PhotonClient(backend, MachineSequences(self.data, self.num_machines), store)
            engine = InProcessEngine(_Made(machines), WallClock())
            node = SubFederation(engine, self.num_machines, store, self.machine_scheme)
            return self._secured(node)
        return self._secured(PhotonClient(backend, self.data, store))

    def _secured(self, client: PhotonClient | SubFederation) -> Client:
        if not self.is_secure:
            return client
        # Secrets take packages that other runs do without.
        from hocket.fl.photon.secure_client import SecureClient

        return SecureClient(client)


@dataclass(frozen=True)
class _Made:
    """Hands out a client that is there already."""

    client: PhotonClient

    def device_ids(self) -> list[str]:
        """Return the clients that it can stand for."""
        return self.client.sequences.device_ids()

    def __call__(self) -> PhotonClient:
        """Return it."""
        return self.client


def make_backend(artifact: Artifact) -> CompiledBackend:
    """Return what trains and evaluates a compiled decoder."""
    from hocket.fl.backends.compiled import CompiledBackend
    from hocket.fl.backends.task import Task

    return CompiledBackend(artifact, Task("tokens"), num_threads=1)
