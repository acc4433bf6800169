"""A data set of images, spread over devices."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.data import Examples
from hocket.fl.core.errors import ConfigError
from hocket.fl.data.partitioning import Partitioning, keep_split
from hocket.fl.data.sources import SOURCES, LabelledImages, data_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImagePartitions:
    """A data set by its name and how it is spread; a worker process reads it for itself.

    Attributes:
        source: One of ``SOURCES``.
        partitioning: Which images are whose.
        input_name: Of the model's input that takes the images.
        held_out_share: Of each device's images, the share that it evaluates on and does not train
            on.

    Raises:
        ConfigError: There is no such source, or the share is out of range.
    """

    source: str
    partitioning: Partitioning
    input_name: str
    held_out_share: float = 0.0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ConfigError(f"no data set {self.source!r}; there are {', '.join(SOURCES)}")
        if not 0 <= self.held_out_share < 1:
            raise ConfigError(f"held_out_share must be from 0 to 1, got {self.held_out_share}")

    def device_ids(self) -> list[str]:
        """Return ``device-0000`` and so on; the number is Flower's partition id."""
        return list(_numbers(self.partitioning.num_devices))

    def load(self, device_id: str) -> Examples:
        """Return what a device trains on."""
        indices = self._indices(device_id)
        return self._take(indices[self._num_held_out(indices) :])

    def held_out(self, device_id: str | None = None) -> Examples:
        """Return the data set's test images, or those that a device does not train on.

        Raises:
            ConfigError: A device is to evaluate, and none holds any out.
        """
        if device_id is None:
            images = _read(self.source)
            scaled = images.scaled(images.test_images)
            return Examples({self.input_name: scaled}, images.test_labels)
        indices = self._indices(device_id)
        count = self._num_held_out(indices)
        if not count:
            raise ConfigError(
                f"{device_id} holds no images out to evaluate on; set held_out_share above 0"
            )
        return self._take(indices[:count])

    def num_examples(self, device_id: str) -> tuple[int, int]:
        """Return how many images a device trains and evaluates on, without making floats of them.

        Raises:
            KeyError: There is no such device.
        """
        indices = self._indices(device_id)
        count = self._num_held_out(indices)
        return len(indices) - count, count

    def digest(self) -> str:
        """Return the SHA-256 of all images, labels and who has which, in hexadecimal."""
        images, found = _read(self.source), hashlib.sha256()
        arrays: list[NDArray[Any]] = [images.images, images.labels]
        arrays += [images.test_images, images.test_labels]
        for array in arrays + list(_split(self.source, self.partitioning)):
            found.update(f"{array.dtype.str} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def _indices(self, device_id: str) -> NDArray[np.int64]:
        found = _split(self.source, self.partitioning)
        number = _numbers(self.partitioning.num_devices)[device_id]
        # Drawn, as they are sorted by index, which in some sources is by class.
        return np.random.default_rng(number).permutation(found[number])

    def _num_held_out(self, indices: NDArray[np.int64]) -> int:
        if not self.held_out_share:
            return 0
        return min(max(1, round(self.held_out_share * len(indices))), len(indices) - 1)

    def _take(self, indices: NDArray[np.int64]) -> Examples:
        images = _read(self.source)
        scaled = images.scaled(images.images[indices])
        return Examples({self.input_name: scaled}, images.labels[indices])


@functools.lru_cache(2)
def _numbers(num_devices: int) -> dict[str, int]:
    """Return each device's number by its name, in order; a thousand names take a while to make."""
    return {f"device-{number:04d}": number for number in range(num_devices)}


@functools.lru_cache(2)
def _read(source: str) -> LabelledImages:
    return SOURCES[source]()


@functools.lru_cache(8)
def _split(source: str, how: Partitioning) -> list[NDArray[np.int64]]:
    return keep_split(_read(source).labels, how, data_folder() / "partitions")
