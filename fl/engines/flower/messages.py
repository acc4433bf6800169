"""Tasks and what comes of them as records of Flower's messages. Nothing is pickled.

A message holds the parameters once and a task for each device of the node that it is for; the reply
holds one answer for each. So a node that has to start a process for a message, as SuperNodes do,
starts one a round, however many devices live on it.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.lib import format as npy

from hocket.fl.core.engine import failure, lateness
from hocket.fl.core.errors import UpdateError
from hocket.fl.core.types import ClientTask, ClientUpdate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import Reply

_PARAMETERS, _LIMITS, _SECONDS = "parameters", "limits", "seconds"
_SETTING = "setting."


def encode_parameters(parameters: Parameters) -> ArrayRecord:
    """Return arrays as Flower's, in NumPy's own file format."""
    return ArrayRecord({name: Array(np.asarray(parameters[name])) for name in sorted(parameters)})


def decode_parameters(record: ArrayRecord, origin: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record that nobody has checked.

    Raises:
        UpdateError: One of them is not what it says it is.
    """
    return {name: _decode_array(array, f"{origin}: {name!r}") for name, array in record.items()}


def encode_tasks(
    tasks: Sequence[ClientTask], parameters: ArrayRecord, seconds: float | None
) -> RecordDict:
    """Return the content of a message.

    Args:
        tasks: Of one node's devices.
        parameters: That all begin with.
        seconds: After which whoever is still at it is to be stopped; None for never.
    """
    limits = ConfigRecord() if seconds is None else ConfigRecord({_SECONDS: seconds})
    records = RecordDict({_PARAMETERS: parameters, _LIMITS: limits})
    for index, task in enumerate(tasks):
        settings = {f"{_SETTING}{name}": value for name, value in task.config.items()}
        records[f"task-{index}"] = ConfigRecord({**_identity(task), "seed": task.seed, **settings})
    return records


def decode_tasks(records: RecordDict) -> tuple[list[ClientTask], Parameters, float | None]:
    """Return the tasks, the parameters and the seconds of a message.

    Raises:
        UpdateError: It is none of this engine's, or it is damaged.
    """
    if _PARAMETERS not in records.array_records or _LIMITS not in records.config_records:
        raise UpdateError("message: it holds no tasks; want one that FlowerEngine has sent")
    parameters = decode_parameters(records.array_records[_PARAMETERS], "message")
    tasks: list[ClientTask] = []
    while f"task-{len(tasks)}" in records.config_records:
        tasks.append(_decode_task(records.config_records[f"task-{len(tasks)}"]))
    seconds = records.config_records[_LIMITS].get(_SECONDS)
    return tasks, parameters, seconds if isinstance(seconds, float) else None


def encode_replies(replies: Sequence[Reply]) -> RecordDict:
    """Return the content of a reply, with answers in the order of the tasks."""
    records = RecordDict()
    for index, reply in enumerate(replies):
        if isinstance(reply, ClientUpdate):
            metrics = {name: float(value) for name, value in reply.metrics.items()}
            answer = {**_identity(reply), "num-examples": reply.num_examples}
            records[f"metrics-{index}"] = MetricRecord(metrics)  # type: ignore[arg-type]
            records[f"parameters-{index}"] = encode_parameters(reply.parameters)
        else:
            answer = {**_identity(reply), "failure": reply.reason, "late": reply.is_late}
        records[f"answer-{index}"] = ConfigRecord(answer)  # type: ignore[arg-type]
    return records


def decode_replies(records: RecordDict, tasks: Sequence[ClientTask]) -> list[Reply]:
    """Return what came of each task; an answer that makes no sense is a failure of its device."""
    replies: list[Reply] = []
    for index, task in enumerate(tasks):
        try:
            replies.append(_decode_reply(records, index, task))
        except UpdateError as error:
            replies.append(failure(task, error))
    return replies


def _identity(about: ClientTask | Reply) -> dict[str, int | str]:
    return {"round": about.round, "device-id": about.device_id, "kind": about.kind}


def _decode_task(record: ConfigRecord) -> ClientTask:
    number, device_id, seed = record.get("round"), record.get("device-id"), record.get("seed")
    kind = record.get("kind")
    if not (type(number) is type(seed) is int and isinstance(device_id, str)):
        raise UpdateError("message: a task lacks its round, its device or its seed")
    if kind not in ("train", "evaluate"):
        raise UpdateError(f"message: want a task to train or evaluate, got {kind!r}")
    settings: Mapping[str, Any] = {
        name.removeprefix(_SETTING): value
        for name, value in record.items()
        if name.startswith(_SETTING)
    }
    return ClientTask(number, device_id, kind, seed, settings)  # type: ignore[arg-type]


def _decode_reply(records: RecordDict, index: int, task: ClientTask) -> Reply:
    origin = f"device {task.device_id!r}"
    answer = records.config_records.get(f"answer-{index}")
    if answer is None:
        raise UpdateError(f"{origin}: its node's reply holds no answer of it")
    for name, wanted in _identity(task).items():
        if answer.get(name) != wanted:
            raise UpdateError(f"{origin}: want {name} {wanted!r}, got {answer.get(name)!r}")
    if "failure" in answer:
        return lateness(task) if answer.get("late") else failure(task, str(answer["failure"]))
    num_examples = answer.get("num-examples")
    metrics = records.metric_records.get(f"metrics-{index}")
    arrays = records.array_records.get(f"parameters-{index}")
    if type(num_examples) is not int or metrics is None or arrays is None:
        raise UpdateError(f"{origin}: want examples, metrics and parameters in its answer")
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            raise UpdateError(f"{origin}: metric {name!r}: want a number, got {value!r}")
        numbers[name] = float(value)
    parameters = decode_parameters(arrays, origin)
    return ClientUpdate(task.round, task.device_id, task.kind, parameters, num_examples, numbers)


def _decode_array(array: Array, origin: str) -> NDArray[Any]:
    """Return an array whose size is that of its bytes, whatever its header asks for."""
    stream = BytesIO(array.data)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise UpdateError(f"{origin}: want version 1.0 of NumPy's format")
        shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
    except ValueError as error:
        raise UpdateError(f"{origin}: unreadable array: {error}") from error
    if dtype.hasobject:
        raise UpdateError(f"{origin}: want numbers, got objects of Python")
    found, wanted = len(array.data) - stream.tell(), dtype.itemsize * math.prod(shape)
    if found != wanted:
        raise UpdateError(f"{origin}: want {wanted} bytes for {dtype} of {shape}, got {found}")
    flat = np.frombuffer(array.data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C").copy()
