"""K-means from products alone, against scikit-learn's on the vectors and all partitions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.cluster import KMeans

from hocket.fl.store.workloads.kmeans import cluster_products

VECTORS = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 4)),
    elements=st.integers(-5, 5).map(float),
)


def inertia_of(vectors: Any, labels: Any) -> float:
    members = (vectors[labels == label] for label in np.unique(labels))
    return float(sum(np.square(each - each.mean(axis=0)).sum() for each in members))


@settings(max_examples=60, deadline=None)
@given(VECTORS, st.integers(1, 3), st.integers(0, 5))
def test_no_vector_is_nearer_to_another_mean(vectors: Any, num_clusters: int, seed: int) -> None:
    num_clusters = min(num_clusters, len(vectors))
    labels, inertia = cluster_products(vectors @ vectors.T, num_clusters, seed)
    assert inertia == pytest.approx(inertia_of(vectors, labels), abs=1e-8)
    means = {label: vectors[labels == label].mean(axis=0) for label in np.unique(labels)}
    assert len(means) <= num_clusters
    for vector, label in zip(vectors, labels, strict=True):
        mine = np.square(vector - means[label]).sum()
        assert all(mine <= np.square(vector - mean).sum() + 1e-8 for mean in means.values())
    least = min(
        inertia_of(vectors, np.array(each))
        for each in itertools.product(range(num_clusters), repeat=len(vectors))
    )
    assert inertia >= least - 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_clusters_that_are_apart_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = 10 * rng.normal(size=(4, 60))[rng.integers(0, 4, 40)] + rng.normal(size=(40, 60))
    labels, inertia = cluster_products(vectors @ vectors.T, 4, seed)
    theirs = KMeans(4, n_init=10, random_state=seed).fit(vectors)
    assert inertia == pytest.approx(theirs.inertia_)
    mine = labels[:, None] == labels[None]
    np.testing.assert_array_equal(mine, theirs.labels_[:, None] == theirs.labels_[None])


def test_no_better_one_is_left_among_a_handful() -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        vectors = rng.normal(size=(6, 3))
        least = min(
            inertia_of(vectors, np.array(each)) for each in itertools.product(range(3), repeat=6)
        )
        assert cluster_products(vectors @ vectors.T, 3, 0)[1] == pytest.approx(least)


def test_equal_vectors_are_one_cluster() -> None:
    vectors = np.ones((5, 3))
    labels, inertia = cluster_products(vectors @ vectors.T, 3, 0)
    assert labels.tolist() == [0] * 5
    assert inertia == 0


def test_the_same_seed_finds_the_same() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 8))
    one, other = (cluster_products(vectors @ vectors.T, 5, 3) for _ in range(2))
    assert one[0].tolist() == other[0].tolist()
    assert one[1] == other[1]
