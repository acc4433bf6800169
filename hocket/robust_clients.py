"""Clients that train models to withstand attacks, as factories that can be sent elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.fat.baselines.distillation import DistilledClient
from hocket.fl.fat.baselines.partial import PartialClient
from hocket.fl.fat.cascade import CascadeClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.backends.task import Task
    from hocket.fl.core.data import Partitions
    from hocket.fl.fat.baselines.widths import Widths
    from hocket.fl.fat.partition import Cascade
    from hocket.runtime.artifact import Artifact


@dataclass(frozen=True)
class CompiledPieces:
    """Makes a model in pieces from a module's file, which must be the one that the server has.

    Attributes:
        path: Of the file.
        digest: That it must have.
        task: What the model is trained to do.
        exits: Names of the borders that have an early exit.
        exit_features: Numbers that an early exit reads of an image for each class.
        frozen: Patterns of names of weights that are not trained.
        num_threads: Threads of the session that evaluates.
    """

    path: str
    digest: str
    task: Task
    exits: tuple[str, ...] = ()
    exit_features: int = 1
    frozen: tuple[str, ...] = ()
    num_threads: int = 1

    def __call__(self) -> CompiledSpans:
        """Return a new model.

        Raises:
            ArtifactError: The file is damaged, or another one.
        """
        from hocket.runtime.artifact import load_artifact

        return self.make(load_artifact(self.path, self.digest))

    def make(self, artifact: Artifact) -> CompiledSpans:
        """Return a new model of a module that is in memory."""
        from hocket.fl.backends.spans import CompiledSpans

        return CompiledSpans(
            artifact,
            self.exits,
            self.task,
            exit_features=self.exit_features,
            frozen=self.frozen,
            num_threads=self.num_threads,
        )


@dataclass(frozen=True)
class CascadeClients:
    """Makes clients of a cascade, any of which can stand for any device.

    Attributes:
        pieces: The model.
        cascade: Its modules.
        partitions: Everyone's data.
        artifact_digest: Of the artifact that the model is made from.
        num_threads: Threads of torch, in the process where a client is made.
    """

    pieces: CompiledPieces
    cascade: Cascade
    partitions: Partitions
    artifact_digest: str
    num_threads: int = 1

    def device_ids(self) -> list[str]:
        """Return the devices that have data."""
        return self.partitions.device_ids()

    def __call__(self) -> CascadeClient:
        """Return a new client."""
        import torch

        torch.set_num_threads(self.num_threads)
        return CascadeClient(
            self.pieces(), self.partitions, self.cascade, artifact_digest=self.artifact_digest
        )


@dataclass(frozen=True)
class _FamilyClients:
    """What is known of clients of several models by the first, which is the whole one."""

    members: tuple[CascadeClients, ...]

    @property
    def partitions(self) -> Partitions:
        """Everyone's data."""
        return self.members[0].partitions

    @property
    def artifact_digest(self) -> str:
        """Of the whole model's artifact."""
        return self.members[0].artifact_digest

    def device_ids(self) -> list[str]:
        """Return the devices that have data."""
        return self.members[0].device_ids()


@dataclass(frozen=True)
class PartialClients(_FamilyClients):
    """Makes clients that train narrow copies of a model.

    Attributes:
        members: Make clients of each width, the whole model's first.
        widths: What the axes of all arrays number.
        counts: Units that each model has, by their group.
    """

    widths: Widths
    counts: tuple[Mapping[str, int], ...]

    def __call__(self) -> PartialClient:
        """Return a new client."""
        return PartialClient(self.members, self.widths, self.counts)


@dataclass(frozen=True)
class DistilledClients(_FamilyClients):
    """Makes clients that train models of several sizes.

    Attributes:
        members: Make clients of each size, the largest first.
    """

    def __call__(self) -> DistilledClient:
        """Return a new client."""
        return DistilledClient(self.members)
