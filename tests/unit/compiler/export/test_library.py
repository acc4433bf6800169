"""Exported libraries as C sees them: what is refused, and with which words."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attention_reference import random_operands
from support.exports import CASES, PREFIX, build, empty_output, native_cpu, operands_by_name
from support.kernel_runs import compute
from support.kernel_strategies import make_parameters
from support.modules import tiny_artifact

from hocket.compiler.export.cpus import CPUS
from hocket.compiler.export.library import build_library
from hocket.runtime.kernels.attention import make_attention_kernel

OPERANDS = ("query", "key", "value", "mask", "kv_lengths", "output")
BUFFERS = (*OPERANDS, "scratch")
MADE = ("boolean-mask", "lengths")
ALL_PARAMETERS = [make_parameters(**CASES[case]) for case in MADE]
OK, WRONG_CPU, OUT_OF_RANGE, MISSING, UNWANTED, WRONG_SIZE, MISALIGNED, TOO_SMALL = range(8)


class Buffers(ctypes.Structure):
    """``hocket_test_buffers`` of the header."""

    _fields_ = [
        field
        for name in BUFFERS
        for field in ((name, ctypes.c_void_p), (f"{name}_bytes", ctypes.c_size_t))
    ]


class Library:
    """A library with arrays for each of its attentions."""

    def __init__(self, path: Path) -> None:
        self._loaded = ctypes.CDLL(str(path))
        for name in ("scratch_bytes", "message"):
            restype = ctypes.c_size_t if name == "scratch_bytes" else ctypes.c_char_p
            getattr(self._loaded, f"{PREFIX}_{name}").restype = restype
        self.arrays: list[dict[str, Any]] = []
        for number, parameters in enumerate(ALL_PARAMETERS):
            arrays = operands_by_name(random_operands(parameters, number))
            scratch = np.empty(self("scratch_bytes", number, 3) + 64, np.uint8)
            aligned = scratch[-scratch.ctypes.data % 64 :]
            self.arrays.append({**arrays, "output": empty_output(parameters), "scratch": aligned})

    def __call__(self, name: str, *arguments: Any) -> Any:
        return getattr(self._loaded, f"{PREFIX}_{name}")(*arguments)

    def buffers(self, number: int, workers: int) -> Buffers:
        """Return the buffers that are right."""
        fields: dict[str, Any] = {}
        for name, array in self.arrays[number].items():
            if array is not None:
                fields |= {name: array.ctypes.data, f"{name}_bytes": array.nbytes}
        fields["scratch_bytes"] = self("scratch_bytes", number, workers)
        return Buffers(**fields)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    build(folder, native_cpu(), ALL_PARAMETERS)
    return Library(folder / f"lib{PREFIX}.so")


@pytest.mark.parametrize("number", range(len(MADE)))
def test_what_is_right_is_done(library: Library, number: int) -> None:
    assert library("attend", number, ctypes.byref(library.buffers(number, 1))) == OK
    assert library("message", OK) == b"done"


@given(
    number=st.integers(-1, len(MADE)),
    workers=st.sampled_from([-1, 0, 1, 3, 1024, 1025, 2**31 - 1]),
    worker=st.sampled_from([-1, 0, 2, 3, 2**31 - 1]),
    field=st.sampled_from([None, *(name for name, _ in Buffers._fields_)]),
    change=st.sampled_from(["null", "off by one", "half", "twice", "huge"]),
)
def test_what_is_wrong_is_said_and_does_no_harm(
    library: Library, number: int, workers: int, worker: int, field: str | None, change: str
) -> None:
    in_range = 0 <= number < len(MADE) and 1 <= workers <= 1024
    buffers = library.buffers(max(0, min(number, len(MADE) - 1)), 3 if in_range else 1)
    given = getattr(buffers, field) if field else None
    # Addresses of nowhere are not for the library to know.
    if field and (field.endswith("bytes") or change in ("null", "off by one")):
        changed = {
            "null": 0,
            "off by one": (given or 0) + 1,
            "half": (given or 0) // 2,
            "twice": (given or 0) * 2,
            "huge": 2**64 - 1,
        }[change]
        setattr(buffers, field, changed)
    code = library("begin", number, ctypes.byref(buffers), workers)
    assert code == _expected(library, buffers, number, workers)
    done = library("work", number, ctypes.byref(buffers), workers, worker)
    assert done == (code or (OK if 0 <= worker < workers else OUT_OF_RANGE))
    assert len(library("message", done)) > 3


def _expected(library: Library, buffers: Buffers, number: int, workers: int) -> int:
    """Return the code by what the header says, in the order in which things are looked at."""
    if not (0 <= number < len(MADE) and 1 <= workers <= 1024):
        return OUT_OF_RANGE
    faults = [(not buffers.scratch, MISSING)]
    for name in OPERANDS:
        array = library.arrays[number][name]
        address, size = getattr(buffers, name), getattr(buffers, f"{name}_bytes")
        if array is None:
            faults.append((bool(address), UNWANTED))
        else:
            faults += [
                (not address, MISSING),
                (size != array.nbytes, WRONG_SIZE),
                ((address or 0) % array.itemsize > 0, MISALIGNED),
            ]
    faults += [
        (buffers.scratch_bytes < library("scratch_bytes", number, workers), TOO_SMALL),
        ((buffers.scratch or 0) % 64 > 0, MISALIGNED),
    ]
    return next((code for is_wrong, code in faults if is_wrong), OK)


def test_no_buffers_at_all_are_an_answer(library: Library) -> None:
    assert library("attend", 0, None) == MISSING


@pytest.mark.skipif(native_cpu() == "x86-64-v2", reason="without FMA, products are rounded twice")
def test_exported_kernels_give_the_bits_of_the_runtimes(tmp_path: Path) -> None:
    all_parameters = [make_parameters(**CASES[case]) for case in ("causal", "few-rows", "softcap")]
    build(tmp_path, native_cpu(), all_parameters)
    loaded = ctypes.CDLL(str(tmp_path / f"lib{PREFIX}.so"))
    for number, parameters in enumerate(all_parameters):
        operands = random_operands(parameters, 0)
        expected = compute(make_attention_kernel(parameters), operands)
        output = empty_output(parameters)
        scratch_bytes = getattr(loaded, f"{PREFIX}_scratch_bytes")(number, 1)
        scratch = np.empty(scratch_bytes + 64, np.uint8)
        arrays = {
            "query": operands.query,
            "key": operands.key,
            "value": operands.value,
            "output": output,
        }
        buffers = Buffers(
            **{name: array.ctypes.data for name, array in arrays.items()},
            **{f"{name}_bytes": array.nbytes for name, array in arrays.items()},
            scratch=scratch.ctypes.data + -scratch.ctypes.data % 64,
            scratch_bytes=scratch_bytes,
        )
        assert getattr(loaded, f"{PREFIX}_attend")(number, ctypes.byref(buffers)) == OK
        np.testing.assert_array_equal(output, expected)


def test_a_cpu_that_lacks_a_feature_is_refused_with_its_name(tmp_path: Path) -> None:
    cpu = dataclasses.replace(CPUS[native_cpu()], features=("sse3", "flux-capacitor"))
    artifact = tiny_artifact()
    words = f"this library is for {cpu.name} and needs 'flux-capacitor', which this CPU lacks"
    for kind in ("library", "onnxruntime"):
        build_library(
            *(artifact.attention_steps, artifact.tensors, cpu, tmp_path),
            kind=kind,
            prefix=PREFIX,
            about=[],
        )
    loaded = ctypes.CDLL(str(tmp_path / f"lib{PREFIX}.so"))
    message = getattr(loaded, f"{PREFIX}_message")
    message.restype = ctypes.c_char_p
    assert getattr(loaded, f"{PREFIX}_attend")(0, ctypes.byref(Buffers())) == WRONG_CPU
    assert message(WRONG_CPU).decode().startswith(words)
    options = onnxruntime.SessionOptions()
    with pytest.raises(Exception, match="flux-capacitor") as raised:
        options.register_custom_ops_library(str(tmp_path / f"lib{PREFIX}_onnxruntime.so"))
    assert words in str(raised.value)
