"""Data sets as packages have them, and how they are spread over devices."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning, keep_split, split_by_label
from hocket.fl.data.sources import SOURCES, LabelledImages, data_folder, load_digits, read_idx

HOWS = st.builds(
    Partitioning,
    kind=st.sampled_from(["iid", "dirichlet", "shards"]),
    num_devices=st.integers(1, 12),
    alpha=st.sampled_from([0.5, 1.0, 50.0]),
    min_examples=st.integers(1, 5),
    seed=st.integers(0, 50),
)


@settings(max_examples=25, deadline=None)
@given(how=HOWS, count=st.integers(400, 900))
def test_every_example_is_one_devices(how: Partitioning, count: int) -> None:
    labels = np.random.default_rng(0).integers(0, 5, count)
    parts = split_by_label(labels, how)
    together = np.concatenate(parts)
    assert len(parts) == how.num_devices
    assert len(set(together.tolist())) == len(together)
    left_over = count - len(together)
    assert 0 <= left_over < (how.num_devices * 2 if how.kind == "shards" else 1)
    assert all((np.diff(part) > 0).all() for part in parts)
    if how.kind == "dirichlet":
        assert min(map(len, parts)) >= how.min_examples
    again = split_by_label(labels, how)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))


def _num_classes(labels: np.ndarray, how: Partitioning) -> float:
    """Return how many classes a device has on the mean, each counted by its share."""
    shares = [
        np.bincount(labels[part], minlength=10) / len(part) for part in split_by_label(labels, how)
    ]
    return float(np.mean([1 / (share**2).sum() for share in shares]))


def test_the_less_alpha_the_more_devices_differ() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 6000)
    found = [
        _num_classes(labels, Partitioning("dirichlet", 20, alpha=alpha, seed=2))
        for alpha in (0.1, 0.5, 5.0, 1000.0)
    ]
    assert found == sorted(found)
    assert found[0] < 4
    assert found[-1] > 9.5
    assert _num_classes(labels, Partitioning("iid", 20)) > 9.3
    assert _num_classes(labels, Partitioning("shards", 20)) < 3.1


def test_a_split_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 300)
    how = Partitioning("dirichlet", 5, seed=4)
    first = keep_split(labels, how, tmp_path)
    monkeypatch.setattr("hocket.fl.data.partitioning.split_by_label", None)
    second = keep_split(labels, how, tmp_path)
    assert [part.tolist() for part in first] == [part.tolist() for part in second]
    monkeypatch.undo()
    keep_split(labels[::-1].copy(), how, tmp_path)
    keep_split(labels, Partitioning("dirichlet", 5, seed=5), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_has_images_of_all_classes(source: str) -> None:
    try:
        found = SOURCES[source]()
    except ConfigError as error:
        pytest.skip(f"{error}")
    shapes = {
        "digits": (1437, 1, 8, 8),
        "mnist-digits": (8000, 1, 28, 28),
        "fashion-mnist": (60000, 1, 28, 28),
    }
    assert found.images.shape == shapes[source]
    for images, labels in (
        (found.images, found.labels),
        (found.test_images, found.test_labels),
    ):
        counts = np.bincount(labels, minlength=10)
        assert counts.min() > 0.7 * counts.mean()
        scaled = found.scaled(images[:100])
        assert (scaled.dtype, scaled.min(), scaled.max()) == (np.float32, 0.0, 1.0)


def test_devices_hold_out_what_they_do_not_train_on() -> None:
    partitions = ImagePartitions("digits", Partitioning("iid", 7), "pixels", held_out_share=0.2)
    assert partitions.device_ids()[:2] == ["device-0000", "device-0001"]
    total = 0
    for device in partitions.device_ids():
        train, held_out = partitions.load(device), partitions.held_out(device)
        total += len(train) + len(held_out)
        assert 0.15 < len(held_out) / (len(train) + len(held_out)) < 0.25
        seen = {image.tobytes() for image in train.inputs["pixels"]}
        assert not seen & {image.tobytes() for image in held_out.inputs["pixels"]}
        again = partitions.load(device)
        assert (again.inputs["pixels"] == train.inputs["pixels"]).all()
    assert total == len(load_digits().labels)
    assert len(partitions.held_out()) == len(load_digits().test_labels)


def test_digits_are_those_that_scikit_learn_loads() -> None:
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    is_test = np.arange(len(labels)) % 5 == 0
    found = load_digits()
    assert (found.images.reshape(-1, 64) == images[~is_test]).all()
    assert (found.test_images.reshape(-1, 64) == images[is_test]).all()
    assert (found.labels == labels[~is_test]).all()
    assert (found.test_labels == labels[is_test]).all()


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOCKET_DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setattr("hocket.fl.data.sources.FASHION_MNIST_FOLDERS", ())
    for source in ("fashion-mnist", "mnist-digits"):
        with pytest.raises(ConfigError, match="make data"):
            SOURCES[source]()
    with pytest.raises(ConfigError, match="no data set 'cifar'; there are digits"):
        ImagePartitions("cifar", Partitioning(), "x")
    with pytest.raises(ConfigError, match="held_out_share"):
        ImagePartitions("digits", Partitioning(), "x", 1.0)
    partitions = ImagePartitions("digits", Partitioning(), "x")
    with pytest.raises(ConfigError, match="set held_out_share above 0"):
        partitions.held_out("device-0001")
    with pytest.raises(KeyError):
        partitions.load("device-9999")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b""), "no IDX file"),
        (gzip.compress(bytes((0, 0, 13, 1, 0, 0, 0, 0))), "no IDX file of unsigned bytes"),
        (gzip.compress(bytes((0, 0, 8, 3, 0, 0))), "is cut short"),
        (gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 9)) + b"1234"), "holds 4 bytes"),
        (gzip.compress(b"x" * 100)[:-6], "cannot be read"),
    ],
    # A gzip file holds the time it was made: as part of a test's name, no two workers of
    # pytest would collect the same tests.
    ids=["no-gzip", "empty", "floats", "short-header", "short-content", "short-gzip"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        read_idx(path)


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "other"}, {"num_devices": 0}, {"alpha": 0.0}, {"shards_per_device": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Partitioning(**wrong)  # type: ignore[arg-type]


def test_too_many_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few"):
        split_by_label(np.zeros(3, np.int64), Partitioning("iid", 4))
    with pytest.raises(ConfigError, match="labels are not all"):
        LabelledImages(
            *(np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 9])) * 2, brightest=1, num_classes=9
        )
