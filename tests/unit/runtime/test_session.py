"""Sessions: onnxruntime's conventions, checked feeds, the same numbers whatever the threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.modules import BATCH, LENGTH, tiny_artifact, tiny_feeds
from support.tiny_encoder import make_tiny_encoder

from hocket.runtime.arena import plan_arena
from hocket.runtime.artifact import save_artifact
from hocket.runtime.errors import ArtifactError, FeedError, HostStepError
from hocket.runtime.session import InferenceSession, SessionOptions


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return InferenceSession(tiny_artifact(), SessionOptions(intra_op_num_threads=1))


def onnxruntime_outputs(feeds: dict[str, Any]) -> list[Any]:
    peer = onnxruntime.InferenceSession(make_tiny_encoder().SerializeToString())
    outputs: list[Any] = peer.run(None, feeds)
    return outputs


def test_numbers_are_onnxruntimes(session: InferenceSession) -> None:
    for seed in range(3):
        feeds = tiny_feeds(seed)
        for ours, theirs in zip(session.run(None, feeds), onnxruntime_outputs(feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_names_types_and_shapes_read_like_onnxruntimes(session: InferenceSession) -> None:
    peer = onnxruntime.InferenceSession(make_tiny_encoder().SerializeToString())
    for ours, theirs in zip(
        [*session.get_inputs(), *session.get_outputs()],
        [*peer.get_inputs(), *peer.get_outputs()],
        strict=True,
    ):
        assert (ours.name, ours.type) == (theirs.name, theirs.type)
    assert session.get_inputs()[0].shape == (BATCH, LENGTH)


def test_outputs_are_picked_by_name_and_belong_to_the_caller(session: InferenceSession) -> None:
    name = session.get_outputs()[-1].name
    (first,) = session.run([name], tiny_feeds(0))
    kept = first.copy()
    session.run([name], tiny_feeds(1))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": None}, "missing"),
        ({"tokens": np.zeros(1)}, "unknown"),
        ({"ids": np.zeros((BATCH, LENGTH), np.int32)}, "want int64, got int32"),
        ({"ids": np.zeros((BATCH, LENGTH + 1), np.int64)}, "want shape"),
        ({"ids": [[1, 2]]}, "want a numpy array, got list"),
        ({"mask": np.zeros((), np.int64)}, "want shape"),
    ],
)
def test_wrong_feeds_are_named(
    session: InferenceSession, change: dict[str, Any], message: str
) -> None:
    feeds = {name: array for name, array in (tiny_feeds() | change).items() if array is not None}
    with pytest.raises(FeedError, match=message):
        session.run(None, feeds)


def test_an_unknown_output_is_named(session: InferenceSession) -> None:
    with pytest.raises(FeedError, match="no output 'logit'"):
        session.run(["logit"], tiny_feeds())


def test_a_value_that_onnxruntime_cannot_take_names_the_step(session: InferenceSession) -> None:
    feeds = tiny_feeds()
    feeds["ids"][0, 0] = 10_000
    with pytest.raises(HostStepError, match=r"step 'host.0': onnxruntime failed: .*Gather"):
        session.run(None, feeds)


def test_strided_feeds_are_taken(session: InferenceSession) -> None:
    feeds = tiny_feeds()
    strided = {
        name: np.asfortranarray(np.repeat(array, 2, axis=1))[:, ::2]
        for name, array in feeds.items()
    }
    for one, other in zip(session.run(None, feeds), session.run(None, strided), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bits_do_not_depend_on_threads() -> None:
    feeds = tiny_feeds()
    outputs = [
        InferenceSession(tiny_artifact(), SessionOptions(intra_op_num_threads=threads)).run(
            None, feeds
        )
        for threads in (1, 2, 3)
    ]
    for other in outputs[1:]:
        for one, two in zip(outputs[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_runs_may_overlap(session: InferenceSession) -> None:
    feeds = [tiny_feeds(seed) for seed in range(8)]
    alone = [session.run(None, each) for each in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: session.run(None, each), feeds * 5))
    for index, outputs in enumerate(together):
        for one, two in zip(outputs, alone[index % 8], strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_target_does_not_change_the_numbers() -> None:
    feeds = tiny_feeds()
    edge = InferenceSession(tiny_artifact("mas-edge")).run(None, feeds)
    for one, two in zip(edge, onnxruntime_outputs(feeds), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_profiling_writes_a_trace_of_every_step(tmp_path: Path) -> None:
    options = SessionOptions(enable_profiling=True, profile_file_prefix=str(tmp_path / "trace_"))
    session = InferenceSession(tiny_artifact(), options)
    session.run(None, tiny_feeds())
    session.run(None, tiny_feeds())
    name = session.end_profiling()
    assert Path(name).parent == tmp_path
    events = json.loads(Path(name).read_text())["traceEvents"]
    assert len(events) == 2 * len(tiny_artifact().steps)
    assert {event["cat"] for event in events} == {"host", "attention"}
    assert all(event["dur"] > 0 for event in events)
    profile = session.profile(tiny_feeds())
    assert profile.seconds >= profile.seconds_of("attention") > 0
    with pytest.raises(ValueError, match="profiling is off"):
        InferenceSession(tiny_artifact()).end_profiling()


def test_options_and_digests_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        InferenceSession(tiny_artifact(), SessionOptions(intra_op_num_threads=-1))
    with pytest.raises(ValueError, match="unknown provider"):
        InferenceSession(tiny_artifact(), providers=["CUDAExecutionProvider"])
    InferenceSession(tiny_artifact(), providers=["CPUExecutionProvider"])
    with pytest.raises(ArtifactError, match="has digest"):
        InferenceSession(tiny_artifact(), expected_digest="f" * 64)
    save_artifact(tiny_artifact(), tmp_path / "tiny.hkt")
    InferenceSession(tmp_path / "tiny.hkt", expected_digest=tiny_artifact().digest)


def test_tensors_alive_together_do_not_overlap_in_the_arena() -> None:
    artifact = tiny_artifact()
    plan = plan_arena(artifact)
    made, read = {}, {}
    for index, step in enumerate(artifact.steps):
        made.update(dict.fromkeys(step.outputs, index))
        read.update(dict.fromkeys(step.inputs, index))
    names = sorted(plan.offsets)
    assert names
    for one in names:
        assert plan.offsets[one] % 64 == 0
        for other in names:
            if one == other or made[other] > read[one] or made[one] > read[other]:
                continue
            start, end = plan.offsets[one], plan.offsets[one] + artifact.tensors[one].nbytes
            low, high = plan.offsets[other], plan.offsets[other] + artifact.tensors[other].nbytes
            assert end <= low or high <= start
