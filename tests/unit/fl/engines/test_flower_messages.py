"""Tasks and answers survive Flower's messages bit by bit; what was tampered with is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from hocket.fl.core.engine import lateness
from hocket.fl.core.errors import UpdateError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate
from hocket.fl.engines.flower.messages import (
    decode_parameters,
    decode_replies,
    decode_tasks,
    encode_parameters,
    encode_replies,
    encode_tasks,
)

ARRAYS = st_numpy.arrays(
    st.sampled_from(["<f4", "<f8", "<f2", "<i8", "|u1", "|b1"]),
    st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
SETTINGS = st.dictionaries(
    st.text(max_size=8),
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    max_size=4,
)
TASK = ClientTask(3, "device-1", "train", 5, {"learning_rate": 0.1})


def through_flower(records: RecordDict) -> RecordDict:
    """Return what is left of records once they have been bytes."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    return recorddict_from_proto(recorddict_to_proto(records))


@given(
    st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3),
    st.lists(
        st.builds(
            ClientTask,
            round=st.integers(1, 10**6),
            device_id=st.text(max_size=8),
            kind=st.sampled_from(["train", "evaluate"]),
            seed=st.integers(0, 2**63 - 1),
            config=SETTINGS,
        ),
        max_size=3,
    ),
    st.none() | st.floats(0.1, 1e6),
)
def test_tasks_come_back_as_they_were(
    parameters: dict[str, Any], tasks: list[ClientTask], seconds: float | None
) -> None:
    records = encode_tasks(tasks, encode_parameters(parameters), seconds)
    found, arrays, limit = decode_tasks(through_flower(records))
    assert found == tasks
    assert digest_of(arrays) == digest_of(parameters)
    assert limit == seconds
    for one, other in zip(found, tasks, strict=True):
        kinds = [
            {name: type(value) for name, value in each.config.items()} for each in (one, other)
        ]
        assert kinds[0] == kinds[1]


@given(ARRAYS, st.integers(1, 10**9), st.floats(allow_nan=False))
def test_replies_come_back_as_they_were(array: Any, num_examples: int, loss: float) -> None:
    other = ClientTask(3, "device-2", "evaluate", 5)
    update = ClientUpdate(3, "device-1", "train", {"weight": array}, num_examples, {"loss": loss})
    lost = ClientFailure(3, "device-2", "evaluate", "no memory: 3 bytes are left")
    late = lateness(TASK)
    found = decode_replies(
        through_flower(encode_replies([update, lost, late])), [TASK, other, TASK]
    )
    assert isinstance(found[0], ClientUpdate)
    assert digest_of(found[0].parameters) == digest_of(update.parameters)
    assert (found[0].num_examples, found[0].metrics) == (num_examples, {"loss": loss})
    assert found[1:] == [lost, late]


def test_arrays_keep_their_order_in_memory_and_may_be_written_to() -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = decode_parameters(encode_parameters({"weight": array}), "test")["weight"]
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


def answer(**changes: Any) -> RecordDict:
    """Return a good reply to ``TASK``, but for what is changed; None takes it out."""
    update = ClientUpdate(3, "device-1", "train", {"weight": np.zeros(3)}, 4, {"loss": 1.0})
    records = encode_replies([update])
    for name, value in changes.items():
        fields = records.config_records["answer-0"]
        if name in ("metrics", "parameters", "answer"):
            del records[f"{name}-0"]
            if value is not None:
                records[f"{name}-0"] = value
        else:
            fields[name.replace("_", "-")] = value
    return records


def array_of(data: bytes) -> ArrayRecord:
    return ArrayRecord({"weight": Array("float64", (3,), "numpy.ndarray", data)})


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """Return the header of NumPy's format, written by hand."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust((10 + len(text) + 1 + 63) // 64 * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


def test_the_answer_without_changes_is_an_update() -> None:
    assert isinstance(decode_replies(answer(), [TASK])[0], ClientUpdate)
    right = answer(parameters=array_of(header((3,)) + bytes(24)))
    assert isinstance(decode_replies(right, [TASK])[0], ClientUpdate)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        pytest.param(RecordDict(), "holds no answer of it", id="empty"),
        pytest.param(answer(answer=None), "holds no answer of it", id="no answer"),
        pytest.param(answer(round=4), "want round 3, got 4", id="another round"),
        pytest.param(
            answer(device_id="device-9"), "want device-id 'device-1', got 'device-9'", id="device"
        ),
        pytest.param(answer(kind="evaluate"), "want kind 'train', got 'evaluate'", id="kind"),
        pytest.param(answer(num_examples="4"), "want examples, metrics", id="examples"),
        pytest.param(answer(num_examples=True), "want examples, metrics", id="truth"),
        pytest.param(answer(num_examples=0), "want 1 or more examples", id="no examples"),
        pytest.param(answer(metrics=None), "want examples, metrics", id="no metrics"),
        pytest.param(
            answer(metrics=MetricRecord({"loss": [1.0]})), "'loss': want a number", id="metric"
        ),
        pytest.param(answer(parameters=None), "want examples, metrics", id="no parameters"),
        pytest.param(
            answer(parameters=array_of(b"not numpy")), "'weight': unreadable array", id="no array"
        ),
        pytest.param(
            answer(parameters=array_of(b"\x93NUMPY\x02\x00" + bytes(80))),
            "want version 1.0",
            id="another version",
        ),
        pytest.param(
            answer(parameters=array_of(header((10**15,)) + bytes(24))),
            "want 8000000000000000 bytes",
            id="too few bytes",
        ),
        pytest.param(
            answer(parameters=array_of(header((3,)) + bytes(25))), "got 25", id="too many bytes"
        ),
        pytest.param(
            answer(parameters=array_of(header((3,), "|O") + bytes(24))),
            "want numbers",
            id="objects",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failure_of_its_device(
    records: RecordDict, reason: str
) -> None:
    (found,) = decode_replies(records, [TASK])
    assert isinstance(found, ClientFailure)
    assert (found.round, found.device_id, found.kind) == (3, "device-1", "train")
    assert reason in found.reason


def test_a_bad_answer_leaves_the_next_alone() -> None:
    other = ClientTask(3, "device-2", "train", 5)
    update = ClientUpdate(3, "device-2", "train", {"weight": np.zeros(3)}, 4, {})
    records = encode_replies([ClientFailure(9, "device-9", "train", "wrong"), update])
    found = decode_replies(records, [TASK, other])
    assert [type(each) for each in found] == [ClientFailure, ClientUpdate]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": None}, "lacks its round, its device or its seed"),
        ({"round": 1.5}, "lacks its round, its device or its seed"),
        ({"kind": "predict"}, "want a task to train or evaluate, got 'predict'"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(change: dict[str, Any], reason: str) -> None:
    records = encode_tasks([TASK], ArrayRecord(), math.inf)
    fields = {**records.config_records["task-0"], **change}
    records["task-0"] = ConfigRecord(
        {name: value for name, value in fields.items() if value is not None}
    )
    with pytest.raises(UpdateError, match=reason):
        decode_tasks(records)


def test_a_message_of_someone_else_is_refused() -> None:
    with pytest.raises(UpdateError, match="want one that FlowerEngine has sent"):
        decode_tasks(RecordDict({"arrays": ArrayRecord()}))
