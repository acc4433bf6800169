"""Which examples are whose: partitions by labels alone, kept on disk once they are drawn."""

from __future__ import annotations

import hashlib
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

KINDS = ("iid", "dirichlet", "shards")


@dataclass(frozen=True)
class Partitioning:
    """How examples are spread over devices; flwr-datasets' partitioners do it.

    Attributes:
        kind: ``iid``, ``dirichlet`` (shares of each class are drawn, Hsu et al. 2019), or
            ``shards`` (examples sorted by class, each device gets some stretches, McMahan et al.
            2017).
        num_devices: Devices.
        alpha: Of ``dirichlet``: the less, the more devices differ.
        shards_per_device: Of ``shards``.
        min_examples: Of ``dirichlet``: examples that each device has at least.
        seed: Of what is drawn.

    Raises:
        ConfigError: A number is out of range, or there is no such kind.
    """

    kind: str = "iid"
    num_devices: int = 10
    alpha: float = 0.3
    shards_per_device: int = 2
    min_examples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"partitioning must be one of {KINDS}, got {self.kind!r}")
        for name in ("num_devices", "shards_per_device", "min_examples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.alpha <= 0:
            raise ConfigError(f"alpha must be above 0, got {self.alpha}")


def split_by_label(labels: NDArray[np.int64], how: Partitioning) -> list[NDArray[np.int64]]:
    """Return the indices of each device's examples, sorted. Each index is in one list at most.

    ``shards`` leaves over what does not go into shards of one size.

    Raises:
        ConfigError: There are too few examples for so many devices.
    """
    if len(labels) < how.num_devices:
        raise ConfigError(f"{len(labels)} examples are too few for {how.num_devices} devices")
    from datasets import Dataset

    data = Dataset.from_dict({"label": labels, "index": np.arange(len(labels))})
    if how.kind == "iid":
        # That partitioner does not shuffle.
        data = data.shuffle(seed=how.seed)
    partitioner = _partitioner(how)
    partitioner.dataset = data
    try:
        with warnings.catch_warnings():
            # It draws again where a device has too few, which is what it is asked for.
            warnings.filterwarnings("ignore", message="The specified min_partition_size")
            return [
                np.sort(np.array(partitioner.load_partition(number)["index"], np.int64))
                for number in range(how.num_devices)
            ]
    except ValueError as error:
        raise ConfigError(f"{how}: {error}") from error


def keep_split(
    labels: NDArray[np.int64], how: Partitioning, folder: str | os.PathLike[str]
) -> list[NDArray[np.int64]]:
    """Return what ``split_by_label`` does, from a file of the folder if it is there."""
    content = f"{how} {hashlib.sha256(labels.tobytes()).hexdigest()}".encode()
    path = Path(folder) / f"partition-{hashlib.sha256(content).hexdigest()[:24]}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as found:
            return np.split(found["indices"], np.cumsum(found["counts"])[:-1])
    split = split_by_label(labels, how)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.npz")
    try:
        np.savez(
            temporary,
            indices=np.concatenate(split),
            counts=np.array([len(each) for each in split], np.int64),
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return split


def _partitioner(how: Partitioning) -> Any:
    from flwr_datasets import partitioner

    if how.kind == "dirichlet":
        return partitioner.DirichletPartitioner(
            how.num_devices,
            "label",
            how.alpha,
            min_partition_size=how.min_examples,
            seed=how.seed,
        )
    if how.kind == "shards":
        return partitioner.ShardPartitioner(
            how.num_devices,
            "label",
            num_shards_per_partition=how.shards_per_device,
            seed=how.seed,
        )
    return partitioner.IidPartitioner(how.num_devices)
