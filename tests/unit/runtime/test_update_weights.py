"""A session with new weights computes what a session made anew with them does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.modules import tiny_artifact, tiny_feeds
from support.tiny_encoder import make_tiny_encoder

from hocket.compiler.driver import compile_model
from hocket.runtime.artifact import save_artifact
from hocket.runtime.errors import ArtifactError, FeedError
from hocket.runtime.session import InferenceSession, SessionOptions

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.runtime.artifact import Artifact

ONE_THREAD = SessionOptions(intra_op_num_threads=1)


def _other_weights(artifact: Artifact, seed: int = 1) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        name: (array + 0.1 * generator.standard_normal(array.shape)).astype(array.dtype)
        for name, array in artifact.weights.items()
    }


def _assert_alike(session: InferenceSession, artifact: Artifact, *some_feeds: Any) -> None:
    fresh = InferenceSession(artifact, ONE_THREAD)
    for feeds in some_feeds:
        for one, other in zip(session.run(None, feeds), fresh.run(None, feeds), strict=True):
            np.testing.assert_array_equal(one, other)


def test_outputs_are_those_of_a_session_made_anew() -> None:
    artifact, feeds = tiny_artifact(), tiny_feeds(0)
    session = InferenceSession(artifact, ONE_THREAD)
    before = session.run(None, feeds)
    weights = _other_weights(artifact)
    session.update_weights(weights)
    _assert_alike(session, dataclasses.replace(artifact, weights=weights), feeds, tiny_feeds(1))
    assert not np.array_equal(session.run(None, feeds)[0], before[0])
    session.update_weights(artifact.weights)
    _assert_alike(session, artifact, feeds)


def test_weights_are_copied() -> None:
    artifact, feeds = tiny_artifact(), tiny_feeds(0)
    session, weights = InferenceSession(artifact, ONE_THREAD), _other_weights(artifact)
    session.update_weights(weights)
    wanted = session.run(None, feeds)
    for array in weights.values():
        array[...] = 0
    for one, other in zip(session.run(None, feeds), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_module_for_any_size_takes_them_for_all_sizes() -> None:
    artifact = compile_model(make_tiny_encoder(), dims={"batch": (1, 4), "seq": 12})
    small = {name: array[:1] for name, array in tiny_feeds(2).items()}
    session, weights = InferenceSession(artifact, ONE_THREAD), _other_weights(artifact)
    session.run(None, small)  # one size is planned before, one after
    session.update_weights(weights)
    changed = dataclasses.replace(artifact, weights=weights)
    _assert_alike(session, changed, small, tiny_feeds(3))


def test_a_session_of_a_file_takes_them(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    save_artifact(artifact, tmp_path / "tiny.hkt")
    session, weights = InferenceSession(tmp_path / "tiny.hkt", ONE_THREAD), _other_weights(artifact)
    session.update_weights(weights)
    _assert_alike(session, dataclasses.replace(artifact, weights=weights), tiny_feeds(0))


def test_a_file_that_is_another_one_by_now_is_refused(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    path = tmp_path / "tiny.hkt"
    save_artifact(artifact, path)
    session = InferenceSession(path, ONE_THREAD)
    save_artifact(dataclasses.replace(artifact, weights=_other_weights(artifact)), path)
    with pytest.raises(ArtifactError, match="digest"):
        session.update_weights(artifact.weights)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype"])
def test_weights_that_do_not_fit_change_nothing(fault: str) -> None:
    artifact, feeds = tiny_artifact(), tiny_feeds(0)
    session, weights = InferenceSession(artifact, ONE_THREAD), _other_weights(artifact)
    wanted = session.run(None, feeds)
    name = next(iter(weights))
    if fault == "missing":
        del weights[name]
    elif fault == "unknown":
        weights["odd"] = weights[name]
    elif fault == "shape":
        weights[name] = weights[name][..., None]
    else:
        weights[name] = weights[name].astype(np.float64)
    with pytest.raises(FeedError, match="odd" if fault == "unknown" else name):
        session.update_weights(weights)
    for one, other in zip(session.run(None, feeds), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
