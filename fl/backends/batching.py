"""Batches in the sizes that an artifact takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.data import Examples
from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.runtime.resizing import resized_signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import Signature, TensorSpec
    from hocket.runtime.steps import Step


@dataclass(frozen=True)
class BatchSizes:
    """How many examples a batch of an artifact has.

    Attributes:
        least, most: Two numbers, or one twice where the artifact is compiled for that alone.
    """

    least: int
    most: int

    @property
    def is_fixed(self) -> bool:
        """Whether there is one size only."""
        return self.least == self.most

    def check(self, batch_size: int) -> None:
        """Check how many examples a batch is to have at most.

        Raises:
            ConfigError: The artifact takes fewer.
        """
        if batch_size > self.most:
            raise ConfigError(
                f"batch_size must be at most {self.most}, got {batch_size}: the artifact is "
                f"compiled for {self}"
            )

    def __str__(self) -> str:
        if self.is_fixed:
            return f"batches of {self.most}"
        return f"batches of {self.least} to {self.most}"


@dataclass(frozen=True)
class Sized:
    """An artifact in the sizes of some inputs.

    Attributes:
        dims: Sizes of the open dimensions.
        signature, tensors, steps: As an ``Artifact`` has them.
    """

    dims: tuple[tuple[str, int], ...]
    signature: Signature
    tensors: Mapping[str, TensorSpec]
    steps: tuple[Step, ...]


def find_batch_sizes(artifact: Artifact) -> BatchSizes:
    """Return the batch sizes of an artifact; a batch is the first axis of every input.

    Raises:
        CapabilityError: The inputs have no such axis in common.
    """
    found = set()
    for spec in artifact.signature.inputs:
        shape = spec.shape if artifact.resizing is None else artifact.resizing.shape(spec.name)
        if not shape:
            raise CapabilityError(f"input {spec.name!r} is a scalar: it has no axis of examples")
        first = shape[0]
        if isinstance(first, int):
            found.add((first, first))
        elif artifact.resizing is not None and str(first) in artifact.resizing.dims:
            found.add(artifact.resizing.dims[str(first)])
        else:
            raise CapabilityError(
                f"input {spec.name!r}: its first axis {first} is no dimension of its own"
            )
    if len(found) != 1:
        raise CapabilityError(
            f"the inputs' first axes are {sorted(found)}; all must have the examples there"
        )
    return BatchSizes(*found.pop())


def size_for(artifact: Artifact, batch: Examples) -> Sized:
    """Return the artifact in the sizes of a batch, whose inputs are checked.

    Raises:
        FeedError: An input is missing, unknown, or of another type or shape.
    """
    signature = artifact.signature
    signature.check_names(batch.inputs)
    dims: dict[str, int] = {}
    if artifact.resizing is not None:
        dims = artifact.resizing.read_dims(signature.inputs, batch.inputs)
    sized = _sized(artifact, dims)
    sized.signature.check_feeds(batch.inputs)
    return sized


def at_own_size(artifact: Artifact, batch_size: int | None = None) -> Sized:
    """Return an artifact in the sizes of its ``dims``, perhaps with another open batch."""
    dims: dict[str, int] = {}
    if artifact.resizing is not None:
        dims = {name: artifact.dims[name] for name in artifact.resizing.dims}
        batch = artifact.resizing.shape(artifact.signature.inputs[0].name)[0]
        if batch_size is not None and not isinstance(batch, int):
            dims[str(batch)] = batch_size
    return _sized(artifact, dims)


def _sized(artifact: Artifact, dims: Mapping[str, int]) -> Sized:
    resizing = artifact.resizing
    if resizing is None:
        return Sized((), artifact.signature, artifact.tensors, artifact.steps)
    every = {**artifact.dims, **dims}
    tensors = resizing.resize_tensors(artifact.tensors, every)
    return Sized(
        tuple(sorted(dims.items())),
        resized_signature(artifact.signature, tensors),
        tensors,
        resizing.resize_steps(artifact.steps, every),
    )


def filled(batch: Examples, size: int, ignored: int) -> Examples:
    """Return a batch of at least so many examples; those that are added do not count.

    Args:
        batch: One example or more.
        size: How many there are to be.
        ignored: The target of those that are added, which are the first one again.
    """
    missing = size - len(batch)
    if missing <= 0:
        return batch
    indices = np.concatenate([np.arange(len(batch)), np.zeros(missing, np.int64)])
    inputs = {name: array[indices] for name, array in batch.inputs.items()}
    targets = batch.targets[indices].astype(np.int64)
    targets[len(batch) :] = ignored
    return Examples(inputs, targets)
