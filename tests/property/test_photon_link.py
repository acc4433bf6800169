"""What must hold of every update that is sent: bounds, sums over rounds, and what is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.photon.compression import (
    BLOCKS,
    SCHEMES,
    compensated,
    decode,
    encode,
    encoded_bytes,
)
from hocket.fl.photon.link import HEADER, Label, pack, unpack, wire_bytes

LABEL = Label("job", 3, "alice")
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
FLAT = arrays.arrays(np.float32, st.integers(0, 600), elements=NUMBERS)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
UPDATES = st.dictionaries(
    st.text(st.sampled_from("abc./"), min_size=1, max_size=5),
    arrays.arrays(np.float32, SHAPES, elements=st.floats(-10, 10, width=32)),
    max_size=4,
)
CODES = {"int8": 127, "int4": 7}


@given(FLAT, st.sampled_from(SCHEMES))
def test_no_number_is_off_by_more_than_its_scheme_says(array: np.ndarray, scheme: str) -> None:
    content = encode(array, scheme)
    assert len(content) == encoded_bytes(array.size, scheme)
    found = decode(content, array.size, scheme)
    off = np.abs(found.astype(np.float64) - array)
    if scheme == "float32":
        np.testing.assert_array_equal(found, array)
    elif scheme == "bf16":
        np.testing.assert_array_equal(found, array.astype(ml_dtypes.bfloat16).astype(np.float32))
    else:
        for start in range(0, array.size, BLOCKS[scheme]):
            part = slice(start, start + BLOCKS[scheme])
            largest = np.abs(array[part]).max().astype(np.float64)
            # Half a scale, which may be larger by bfloat16's 2**-7; the least subnormal one has.
            bound = largest / CODES[scheme] / 2 * (1 + 2.0**-7) + 2.0**-134
            assert off[part].max() <= bound * (1 + 1e-6)


@given(
    st.lists(
        arrays.arrays(np.float32, 70, elements=st.floats(-1, 1, width=32)), min_size=1, max_size=8
    ),
    st.sampled_from(["bf16", "int8", "int4"]),
)
def test_over_rounds_only_the_last_loss_is_missing(changes: list[np.ndarray], scheme: str) -> None:
    """Error feedback telescopes: what was sent and the residual sum up to all changes."""
    residual: dict[str, np.ndarray] = {}
    received = np.zeros(70)
    for change in changes:
        wanted = compensated({"w": change}, residual)
        sent = decode(encode(wanted["w"], scheme), 70, scheme)
        residual = {"w": wanted["w"] - sent}
        received += sent
    total = np.sum(np.array(changes, np.float64), axis=0)
    # Sums of the residual and a change are float32.
    np.testing.assert_allclose(received + residual["w"], total, atol=1e-6 * len(changes))


@given(UPDATES, st.sampled_from(SCHEMES), st.integers(1, 300))
def test_what_is_packed_is_unpacked(
    update: dict[str, np.ndarray], scheme: str, chunk_bytes: int
) -> None:
    packed = pack(LABEL, update, scheme, chunk_bytes)
    found = dict(unpack(packed, LABEL, update))
    assert found.keys() == update.keys()
    for name, array in update.items():
        wanted = decode(encode(array, scheme), array.size, scheme).reshape(array.shape)
        np.testing.assert_array_equal(found[name], wanted)
    assert all(array.nbytes <= chunk_bytes + 32 for name, array in packed.items() if name != HEADER)


@given(st.data())
def test_a_flipped_bit_is_found(data: st.DataObject) -> None:
    update = {"a": np.arange(50, dtype=np.float32), "b": np.ones((3, 4), np.float32)}
    packed = dict(pack(LABEL, update, data.draw(st.sampled_from(SCHEMES)), 40))
    name = data.draw(st.sampled_from(sorted(packed)))
    damaged = packed[name].copy()
    damaged[data.draw(st.integers(0, damaged.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    packed[name] = damaged
    with pytest.raises(UpdateError):
        list(unpack(packed, LABEL, update))


@given(st.data())
def test_chunks_are_taken_only_in_their_places(data: st.DataObject) -> None:
    update = {"a": np.zeros(100, np.float32)}  # whose chunks are all alike
    packed = dict(pack(LABEL, update, "float32", 40))
    chunks = sorted(name for name in packed if name != HEADER)
    one, other = data.draw(st.lists(st.sampled_from(chunks), min_size=2, max_size=2, unique=True))
    swapped = packed | {one: packed[other], other: packed[one]}
    with pytest.raises(UpdateError, match="damaged"):
        list(unpack(swapped, LABEL, update))
    missing = {name: array for name, array in packed.items() if name != one}
    with pytest.raises(UpdateError, match="chunks"):
        list(unpack(missing, LABEL, update))


@pytest.mark.parametrize(
    "other",
    [Label("job", 2, "alice"), Label("job", 3, "bob"), Label("other", 3, "alice")],
    ids=["round", "device", "job"],
)
def test_an_update_of_something_else_is_refused(other: Label) -> None:
    update = {"a": np.ones(9, np.float32)}
    packed = pack(other, update, "int8")
    with pytest.raises(UpdateError, match="want an update of"):
        list(unpack(packed, LABEL, update))
    # Nor does a chunk go with another header.
    mine = pack(LABEL, update, "int8")
    with pytest.raises(UpdateError, match="damaged"):
        list(unpack({**mine, "chunk/00000": packed["chunk/00000"]}, LABEL, update))


def test_other_arrays_are_refused() -> None:
    packed = pack(LABEL, {"a": np.ones(9, np.float32)}, "int8")
    for like in ({"b": np.ones(9)}, {"a": np.ones((3, 3))}, {}):
        with pytest.raises(UpdateError, match="other arrays"):
            list(unpack(packed, LABEL, like))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_sent(scheme: str, bad: float) -> None:
    with pytest.raises(UpdateError, match="not finite"):
        encode(np.array([1, bad], np.float32), scheme)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="scheme"):
        encode(np.zeros(1, np.float32), "int2")


@pytest.mark.parametrize(
    ("scheme", "least"), [("float32", 0.999), ("bf16", 1.999), ("int8", 3.95), ("int4", 7.5)]
)
def test_updates_are_as_much_smaller_as_they_should(scheme: str, least: float) -> None:
    update = {"a": np.random.default_rng(0).standard_normal(2**20).astype(np.float32)}
    assert update["a"].nbytes / wire_bytes(pack(LABEL, update, scheme)) > least
