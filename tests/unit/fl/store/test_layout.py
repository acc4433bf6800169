"""Objects of arrays: as others read them, in place, and by the layer."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from hocket.fl.core.errors import StoreError
from hocket.fl.store import layout

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_]


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.sets(st.text("abc.é", min_size=1, max_size=4), max_size=4))
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return {
        name: draw(hnp.arrays(draw(st.sampled_from(DTYPES)), draw(shapes)))
        for name in sorted(names)
    }


@given(parameters())
def test_others_read_what_is_written(arrays: dict[str, Any]) -> None:
    content = layout.encode(arrays)
    assert layout.encode(dict(reversed(arrays.items()))) == content
    theirs = load(content)
    mine = layout.view(content, "here")
    assert mine.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert mine[name].dtype == array.dtype
        assert mine[name].shape == array.shape
        np.testing.assert_array_equal(mine[name], array)
        np.testing.assert_array_equal(theirs[name], array.reshape(theirs[name].shape))
        assert not mine[name].flags.writeable


@given(parameters())
def test_numbers_begin_on_a_cache_line(arrays: dict[str, Any]) -> None:
    content = layout.encode(arrays)
    assert layout.index_bytes(content, "here") % layout.ALIGNMENT_BYTES == 0


@given(parameters())
def test_a_layer_is_a_range(arrays: dict[str, Any]) -> None:
    content = layout.encode(arrays)
    front = content[: layout.index_bytes(content[: layout.HEAD_BYTES], "here")]
    for name, layer in layout.read_index(front, len(content), "here").items():
        part = content[layer.start : layer.end]
        np.testing.assert_array_equal(
            layout.view_layer(part, layer, layer.start), arrays[name].reshape(layer.shape)
        )


def test_floats_lie_in_one_vector_that_is_no_copy() -> None:
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(3, dtype=np.float32),
        "count": np.array(7),
        "flag": np.array([True]),
    }
    content = layout.encode(arrays)
    flat = layout.flat_numbers(content, "here")
    assert sorted(flat.tolist()) == sorted([*range(6), *range(3)])
    assert np.shares_memory(flat, np.frombuffer(content, np.uint8))


def test_floats_of_other_types_are_made_float32() -> None:
    arrays = {
        "a": np.array([1.5, 2.5]),
        "b": np.array([3.5], np.float32),
        "c": np.array([4.5], ml_dtypes.bfloat16),
    }
    flat = layout.flat_numbers(layout.encode(arrays), "here")
    assert flat.dtype == np.float32
    assert flat.tolist() == [1.5, 2.5, 3.5, 4.5]
    assert layout.flat_numbers(layout.encode({"n": np.array(1)}), "here").size == 0


@given(st.data())
def test_damaged_objects_are_refused_or_read_in_bounds(data: st.DataObject) -> None:
    content = bytearray(layout.encode({"a": np.ones((2, 3), np.float32), "n": np.array(3)}))
    length = layout.index_bytes(content, "here")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    cut = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(StoreError):
        found = layout.view(bytes(cut), "here")
        assert sum(array.nbytes for array in found.values()) <= 2 * len(cut)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "do not match"),
        ({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}, "do not match"),
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "unknown type"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "malformed"),
        ({"dtype": "F32", "shape": [1]}, "unreadable index"),
    ],
)
def test_lies_in_the_index_are_found(entry: dict[str, Any], message: str) -> None:
    table = json.dumps({"a": entry}).encode()
    content = len(table).to_bytes(8, "little") + table + bytes(8)
    with pytest.raises(StoreError, match=message):
        layout.view(content, "here")
