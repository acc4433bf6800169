"""From ONNX to numbers: any written form, compiled and run, gives onnxruntime's numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.onnx_models import Choices, bert_like_model, decomposed_attention_model, random_feeds
from support.onnx_strategies import choices
from support.partition_executor import run_model

from hocket.compiler.driver import compile_model
from hocket.runtime.session import InferenceSession, SessionOptions

# Each new pair of head sizes is a kernel to compile; two of each are enough to mix them up.
DIMS = st.sampled_from([3, 8])


def has_masks_that_do_not_merge(made: Choices) -> bool:
    """Whether there are several masks, of which one puts a number that scores may come near."""
    rows, columns = made.query_length, made.kv_length
    hides = not np.tri(rows, columns, max(columns - rows, 0), dtype=bool).all()
    roles = {
        "none": [],
        "added": ["add"] if hides else [],
        "chosen": ["choose"] if hides else [],
        "computed": ["choose"] if hides else [],
        "merged": ["choose"],
    }[made.causal] + {
        "none": [],
        "zero": [],
        "add": ["add"],
        "constant": ["add"] if math.prod(made.mask_shape or made.scores_shape) > 1 else [],
        "keep": ["choose"],
        "drop": ["choose"],
        "two adds": ["add", "add"],
        "keep then add": ["choose", "add"],
        "add then keep": ["add", "choose"],
    }[made.mask]
    return len(roles) > 1 and "choose" in roles


@given(choices(), DIMS, DIMS, st.integers(0, 1000), st.booleans())
@settings(max_examples=20)
def test_float16_models_are_as_good_as_their_numbers_allow(
    made: Choices, head_dim: int, value_dim: int, seed: int, softmax_float32: bool
) -> None:
    """Compared with the same model in float32: the kernel rounds once, onnxruntime at each step."""
    made = dataclasses.replace(
        made,
        head_dim=head_dim,
        value_dim=value_dim,
        masked_value=max(made.masked_value, -60000.0),
    )
    half = dataclasses.replace(made, dtype="float16", softmax_float32=softmax_float32)
    model = decomposed_attention_model(half)
    sizes = {"batch": made.batch, "query_length": made.query_length, "key_length": made.kv_length}
    is_open = made.projected and made.dynamic and made.rank == 4
    dims = sizes if is_open else {}
    artifact = compile_model(model, dims=dims)
    assert len(artifact.attention_steps) == (0 if has_masks_that_do_not_merge(made) else 1)
    feeds = random_feeds(model, seed, **dims)
    session = InferenceSession(artifact, SessionOptions(intra_op_num_threads=1))
    for ours, theirs in zip(session.run(None, feeds), run_model(model, feeds), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            ours.astype(np.float32), theirs.astype(np.float32), rtol=2e-2, atol=2e-2
        )


@given(choices(), DIMS, DIMS, st.sampled_from(["host", "mas-edge"]), st.integers(0, 1000))
@settings(max_examples=40)
def test_every_written_form_gives_onnxruntimes_numbers(
    made: Choices, head_dim: int, value_dim: int, target: str, seed: int
) -> None:
    made = dataclasses.replace(made, head_dim=head_dim, value_dim=value_dim)
    model = decomposed_attention_model(made)
    sizes = {"batch": made.batch, "query_length": made.query_length, "key_length": made.kv_length}
    is_open = made.projected and made.dynamic and made.rank == 4
    dims = sizes if is_open else {}
    artifact = compile_model(model, target=target, dims=dims)
    assert len(artifact.attention_steps) == 1
    feeds = random_feeds(model, seed, **dims)
    session = InferenceSession(artifact, SessionOptions(intra_op_num_threads=1))
    for ours, theirs in zip(session.run(None, feeds), run_model(model, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=15)
def test_layers_that_take_turns_give_onnxruntimes_numbers(
    layers: int, batch: int, length: int, seed: int
) -> None:
    model = bert_like_model(layers=layers)
    names = {
        dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    }
    dims = {name: batch if "batch" in name else length for name in names if name}
    artifact = compile_model(model, dims=dims)
    assert len(artifact.attention_steps) == layers
    feeds = random_feeds(model, seed, **dims)
    for threads in (1, 2):
        session = InferenceSession(artifact, SessionOptions(intra_op_num_threads=threads))
        for _ in range(2):  # memory of the first run must not show in the second
            outputs = session.run(None, feeds)
            for ours, theirs in zip(outputs, run_model(model, feeds), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
