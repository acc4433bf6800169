"""Sessions: onnxruntime's conventions, checked feeds, the same numbers whatever the threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from support.modules import BATCH, LENGTH, tiny_artifact, tiny_feeds
from support.tiny_encoder import make_tiny_encoder

from hocket.compiler.driver import compile_model
from hocket.compiler.options import CompileOptions
from hocket.runtime.arena import plan_arena
from hocket.runtime.artifact import save_artifact
from hocket.runtime.errors import ArtifactError, FeedError, HostStepError
from hocket.runtime.session import InferenceSession, SessionOptions
from hocket.runtime.sized import MAX_IDLE_CONTEXTS


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
        ({"ids": None, "tokens": np.zeros(1)}, r"missing \['ids'\] and unknown \['tokens'\]"),
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
    with pytest.raises(FeedError, match=r"want a list of names, as in \['logits'\], got text"):
        session.run("logits", tiny_feeds())


def test_the_provider_in_use_is_told_as_onnxruntime_tells_it(session: InferenceSession) -> None:
    theirs = onnxruntime.get_available_providers()
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert set(session.get_providers()) <= set(theirs)


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
    plan = plan_arena(artifact.steps, artifact.signature, artifact.tensors)
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


def make_model(nodes: list[Any], inputs: Any, outputs: Any, weights: Any = ()) -> Any:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", 23)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def attention(query: str, output: str, name: str = "") -> Any:
    return helper.make_node("Attention", [query, query, query], [output], name=name)


FLOATS = (1, [1, 2, 4, 8])


def assert_same_as_onnxruntime(model: Any, runs: int = 2, num_threads: int = 0) -> None:
    artifact = compile_model(model, options=CompileOptions(num_threads=num_threads))
    session = InferenceSession(artifact)
    generator = np.random.default_rng(0)
    peer = onnxruntime.InferenceSession(model.SerializeToString())
    for _ in range(runs):
        feeds = {
            spec.name: generator.standard_normal(spec.shape).astype(np.float32)
            for spec in session.get_inputs()
        }
        for ours, theirs in zip(session.run(None, feeds), peer.run(None, feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_output_that_is_an_input_is_handed_on() -> None:
    assert_same_as_onnxruntime(make_model([], {"x": FLOATS}, {"x": FLOATS}))
    both = {"y": FLOATS, "x": FLOATS}
    model = make_model([attention("x", "y")], {"x": FLOATS}, both)
    assert_same_as_onnxruntime(model)
    session = InferenceSession(compile_model(model))
    feeds = {"x": np.ones((1, 2, 4, 8), np.float32)}
    session.run(["x"], feeds)[0][...] = 7  # the caller's own array, not the feed
    assert (feeds["x"] == 1).all()


@pytest.mark.parametrize(
    "name", ["hocket.turn", "hocket.host.0.turn", "hocket.host.1/o", "host.1:o", "__metadata__"]
)
def test_a_weight_may_have_any_name(name: str) -> None:
    nodes = [
        helper.make_node("Mul", ["x", name], ["a"]),
        attention("a", "b"),
        helper.make_node("Mul", ["b", name], ["o"]),
    ]
    weights = {name: np.linspace(0.5, 2, 8, dtype=np.float32)}
    assert_same_as_onnxruntime(make_model(nodes, {"x": FLOATS}, {"o": FLOATS}, weights))


def test_an_attention_may_be_named_like_a_host_region() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        attention("a", "b", name="host.0"),
        helper.make_node("Neg", ["b"], ["c"]),
        attention("c", "d", name="host.1"),
        helper.make_node("Neg", ["d"], ["o"]),
    ]
    assert_same_as_onnxruntime(make_model(nodes, {"x": FLOATS}, {"o": FLOATS}))


@pytest.mark.parametrize("shares", [True, False])
def test_quantised_weights_in_several_regions(shares: bool) -> None:
    generator = np.random.default_rng(1)
    nodes, weights, value = [], {}, "x"
    for layer in range(2):
        number = 0 if shares else layer
        weights[f"w{number}"] = generator.integers(-99, 99, (8, 8)).astype(np.int8)
        weights[f"s{number}"] = np.full(8, 0.01, np.float32)
        nodes += [
            helper.make_node(
                "DequantizeLinear", [f"w{number}", f"s{number}"], [f"d{layer}"], axis=1
            ),
            attention(value, f"a{layer}"),
            helper.make_node("MatMul", [f"a{layer}", f"d{layer}"], [f"m{layer}"]),
        ]
        value = f"m{layer}"
    assert_same_as_onnxruntime(make_model(nodes, {"x": FLOATS}, {value: FLOATS}, weights))


def test_regions_with_scalars_flags_and_branches_take_turns() -> None:
    then = helper.make_graph(
        [helper.make_node("Neg", ["b"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", *FLOATS)],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["b"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", *FLOATS)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),  # a scalar crosses the border
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),  # and a flag
        attention("x", "b"),
        helper.make_node("If", ["positive"], ["i"], then_branch=then, else_branch=other),
        attention("i", "c"),
        helper.make_node("Mul", ["c", "sum"], ["o"]),
    ]
    weights = {"zero": np.array(0, np.float32)}
    model = make_model(nodes, {"x": FLOATS}, {"o": FLOATS, "positive": (9, [])}, weights)
    assert_same_as_onnxruntime(model, runs=6)


def test_regions_of_one_thread_share_few_sessions(tmp_path: Path) -> None:
    nodes, value = [], "x"
    for layer in range(9):
        weight = f"w{layer % 7}"  # two are used by regions of different models
        nodes += [
            helper.make_node("Mul", [value, weight], [f"m{layer}"]),
            attention(f"m{layer}", f"a{layer}"),
        ]
        value = f"a{layer}"
    generator = np.random.default_rng(2)
    weights = {
        f"w{n}": generator.standard_normal((1, 1, 4, 8)).astype(np.float32) for n in range(7)
    }
    model = make_model(nodes, {"x": FLOATS}, {value: FLOATS}, weights)
    assert_same_as_onnxruntime(model, num_threads=1)
    assert_same_as_onnxruntime(model, num_threads=2)
    one, two = (compile_model(model, options=CompileOptions(num_threads=n)) for n in (1, 2))
    assert [len(artifact.host_models) for artifact in (one, two)] == [3, 1]
    save_artifact(one, tmp_path / "one.hkt")
    feeds = {"x": np.ones(FLOATS[1], np.float32)}
    outputs = [InferenceSession(module).run(None, feeds) for module in (two, tmp_path / "one.hkt")]
    np.testing.assert_array_equal(*outputs)


def test_regions_with_convolutions_have_a_session_of_their_own() -> None:
    # Floats are [1, 4, 4, 8] here: heads are the channels.
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["m"]),
        attention("m", "a"),
        helper.make_node("Conv", ["a", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        attention("c", "b"),
        helper.make_node("Add", ["b", "scale"], ["d"]),
        attention("d", "e"),
        helper.make_node("Conv", ["e", "kernel"], ["f"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["f"], ["o"]),
    ]
    generator = np.random.default_rng(3)
    channels = FLOATS[1][1]
    weights = {
        "scale": generator.standard_normal((1, 1, 1, FLOATS[1][3])).astype(np.float32),
        "kernel": generator.standard_normal((channels, channels, 3, 3)).astype(np.float32) / 6,
    }
    model = make_model(nodes, {"x": FLOATS}, {"o": FLOATS}, weights)
    for num_threads in (1, 2):
        assert_same_as_onnxruntime(model, num_threads=num_threads)
        artifact = compile_model(model, options=CompileOptions(num_threads=num_threads))
        groups: dict[int, list[str]] = {}
        for step in artifact.host_steps:
            groups.setdefault(step.model, []).append(step.name)
        assert sorted(groups.values()) == [["host.0", "host.2"], ["host.1"], ["host.3"]]


def test_memory_of_runs_that_overlapped_is_given_back() -> None:
    session = InferenceSession(tiny_artifact())
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda seed: session.run(None, tiny_feeds(seed)), range(60)))
    (idle,) = session._executors._idle.values()
    assert len(idle) <= MAX_IDLE_CONTEXTS


def test_feeds_of_the_wrong_kind_are_named(session: InferenceSession) -> None:
    with pytest.raises(FeedError, match="want arrays by input name, got NoneType"):
        session.run(None, None)  # type: ignore[arg-type]
