"""Clients of a federation, as factories that can be sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.client import BackendClient, ClientFactory

if TYPE_CHECKING:
    from hocket.fl.backends.compiled import CompiledBackend
    from hocket.fl.backends.task import Task
    from hocket.fl.core.backend import BackendFactory
    from hocket.fl.core.data import Partitions
    from hocket.runtime.artifact import Artifact


class ClientMaker(ClientFactory, Protocol):
    """Makes clients of a federation, and knows what they are made of."""

    @property
    def partitions(self) -> Partitions:
        """Everyone's data."""
        ...

    @property
    def artifact_digest(self) -> str:
        """Of the artifact that models are made from; empty where they are from none."""
        ...


@dataclass(frozen=True)
class CompiledModel:
    """Makes a backend from a module's file, which must be the one that the server has.

    Attributes:
        path: Of the file.
        digest: That it must have.
        task: What the model is trained to do.
        frozen: Patterns of names of weights that are not trained.
        num_threads: Threads of the session that evaluates.
    """

    path: str
    digest: str
    task: Task
    frozen: tuple[str, ...] = ()
    num_threads: int = 1

    def __call__(self) -> CompiledBackend:
        """Return a new backend.

        Raises:
            ArtifactError: The file is damaged, or another one.
        """
        from hocket.runtime.artifact import load_artifact

        return self.make(load_artifact(self.path, self.digest))

    def make(self, artifact: Artifact) -> CompiledBackend:
        """Return a new backend of a module that is in memory."""
        from hocket.fl.backends.compiled import CompiledBackend

        return CompiledBackend(
            artifact, self.task, frozen=self.frozen, num_threads=self.num_threads
        )


@dataclass(frozen=True)
class Clients:
    """Makes clients of a model, any of which can stand for any device.

    Attributes:
        make_backend: The model.
        partitions: Everyone's data.
        artifact_digest: Of the artifact it is made from; empty for a backend that is from none.
        num_threads: Threads of torch, in the process where a client is made.
    """

    make_backend: BackendFactory
    partitions: Partitions
    artifact_digest: str = ""
    num_threads: int = 1

    def device_ids(self) -> list[str]:
        """Return the devices that have data."""
        return self.partitions.device_ids()

    def __call__(self) -> BackendClient:
        """Return a new client."""
        import torch

        torch.set_num_threads(self.num_threads)
        return BackendClient(self.make_backend(), self.partitions, self.artifact_digest)
