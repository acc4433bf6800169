"""A kernel checks the arrays it is given, and shares nothing but code."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.attention_reference import attend, random_operands
from support.kernel_strategies import make_parameters

from hocket.runtime.kernels.attention import AttentionKernel, make_attention_kernel
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Make = Callable[..., AttentionKernel]

SHAPE = {"batch": 2, "query_heads": 4, "kv_heads": 2, "query_length": 20, "kv_length": 30}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("kernels")
    return lambda **changes: make_attention_kernel(
        make_parameters(**{**SHAPE, **changes}), cache_dir=folder
    )


def arrays_of(kernel: AttentionKernel) -> dict[str, Any]:
    """The arrays of a run, by the names of the arguments."""
    operands = random_operands(kernel.parameters, seed=0)
    return {
        "query": operands.query,
        "key": operands.key,
        "value": operands.value,
        "mask": operands.mask,
        "output": np.zeros(kernel.parameters.output_shape, np.float32),
        "scratch": np.zeros(kernel.scratch_bytes(1), np.uint8),
    }


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("query", lambda a: a.astype(np.float64), "query: want float32, got float64"),
        ("query", lambda a: a[:, :, :-1], r"query: want shape \[2, 4, 20, 16\]"),
        ("query", lambda a: a.reshape(2, 20, 64), "query: want shape"),
        ("key", np.asfortranarray, "key: want a C-contiguous array"),
        ("value", lambda a: a[..., ::2], "value: want shape"),
        ("mask", lambda _: np.zeros((1, 1, 1, 30), np.float32), "mask: the kernel takes none"),
        ("output", read_only, "output: the array is read-only"),
        ("scratch", read_only, "scratch: the array is read-only"),
        ("scratch", lambda a: a[:-1], "scratch: 1 threads want"),
        ("scratch", lambda a: a.view(np.int8), "scratch: want a contiguous uint8 array"),
        ("scratch", lambda a: np.zeros(2 * a.size, np.uint8)[::2], "scratch: want a contiguous"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    make: Make, name: str, spoil: Callable[[Any], Any], message: str
) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    arrays[name] = spoil(arrays[name])
    with pytest.raises(ValueError, match=message):
        kernel.run(**arrays)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "got None"),
        (np.zeros((1, 1, 1, 30), np.bool_), "want float32, got bool"),
        (np.zeros((30,), np.float32), "want shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(make: Make, mask: Any, message: str) -> None:
    kernel = make(mask="additive", mask_shape=(1, 1, 1, 30))
    arrays = arrays_of(kernel)
    with pytest.raises(ValueError, match=f"mask: .*{message}"):
        kernel.run(**{**arrays, "mask": mask})


def test_scratch_must_do_for_all_threads_of_the_pool(make: Make) -> None:
    kernel = make()
    with WorkerPool(2) as pool, pytest.raises(ValueError, match="2 threads want"):
        kernel.run(**arrays_of(kernel), pool=pool)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_pool_of_any_size_computes_the_same(make: Make, num_threads: int) -> None:
    kernel = make(query_length=100, kv_length=200)
    arrays = arrays_of(kernel)
    arrays["scratch"] = np.zeros(kernel.scratch_bytes(num_threads), np.uint8)
    with WorkerPool(num_threads) as pool:
        kernel.run(**arrays, pool=pool)
    attend(kernel.parameters, random_operands(kernel.parameters, 0)).check(arrays["output"])


def test_read_only_inputs_are_fine(make: Make) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    for name in ("query", "key", "value"):
        read_only(arrays[name])
    kernel.run(**arrays)
    attend(kernel.parameters, random_operands(kernel.parameters, 0)).check(arrays["output"])


def test_heads_may_come_merged_with_columns(make: Make) -> None:
    layouts = {f"{name}_layout": "bnhd" for name in ("query", "key", "value", "output")}
    kernel = make(**layouts)
    arrays = arrays_of(kernel)
    operands = random_operands(kernel.parameters, 0)
    for name in ("query", "key", "value", "output"):
        array = arrays[name]
        arrays[name] = array.reshape(*array.shape[:2], -1)
    kernel.run(**arrays)
    output = arrays["output"].reshape(kernel.parameters.output_shape)
    attend(kernel.parameters, operands).check(output)


def test_scratch_may_start_anywhere(make: Make) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    expected = attend(kernel.parameters, random_operands(kernel.parameters, 0))
    for start in (1, 3, 63):
        arrays["scratch"] = np.zeros(kernel.scratch_bytes(1) + start, np.uint8)[start:]
        kernel.run(**arrays)
        expected.check(arrays["output"])


def test_bound_arrays_may_change_between_runs(make: Make) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    bound = kernel.bind(**arrays)
    for seed in (1, 2):
        operands = random_operands(kernel.parameters, seed)
        for name in ("query", "key", "value"):
            arrays[name][:] = getattr(operands, name)
        bound.run()
        attend(kernel.parameters, operands).check(arrays["output"])


def test_one_kernel_runs_in_several_threads(make: Make) -> None:
    kernel = make(query_length=200, kv_length=200)
    expected = attend(kernel.parameters, random_operands(kernel.parameters, 0))
    all_arrays = [arrays_of(kernel) for _ in range(4)]

    def run_often(arrays: dict[str, Any]) -> None:
        for _ in range(5):
            arrays["output"][:] = 0
            kernel.run(**arrays)

    threads = [threading.Thread(target=run_often, args=(arrays,)) for arrays in all_arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for arrays in all_arrays:
        expected.check(arrays["output"])


def test_layers_of_other_lengths_share_code(make: Make) -> None:
    assert make().function is make(query_length=200, kv_length=7, scale=3.0).function
    assert make().function is not make(is_causal=True).function
    few = make(query_length=1)
    assert few.function is make(query_length=7, query_heads=6, kv_length=7).function
    assert few.function is not make().function


def test_work_items_are_blocks_of_one_head(make: Make) -> None:
    assert make(query_length=100, query_rows=32).num_work_items == 2 * 4 * 3
    assert make(query_length=100, query_rows=100).num_work_items == 2 * 4 * 3


def test_work_items_of_few_rows_are_parts_of_the_keys_of_a_head(make: Make) -> None:
    assert make(query_length=1).num_work_items == 2 * 2
    assert make(query_length=1, kv_length=4096).num_work_items == 2 * 2 * 8


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_is_read_or_written_past_the_ends_of_arrays(tmp_path: Path) -> None:
    """Every array ends where a page begins that nobody may touch."""
    program = """
import ctypes, mmap, sys
import numpy as np
from support.attention_reference import attend, random_operands
from support.kernel_strategies import make_parameters
from hocket.runtime.kernels.attention import make_attention_kernel

libc = ctypes.CDLL(None, use_errno=True)
kept = []

def guarded(array):
    pages = -(-array.nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protected = ctypes.c_void_p(start + pages * mmap.PAGESIZE)
    assert libc.mprotect(protected, mmap.PAGESIZE, 0) == 0
    kept.append(memory)
    offset = pages * mmap.PAGESIZE - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy

sizes = dict(query_heads=2, kv_heads=2, head_dim=5, value_dim=7)
keys_first = dict(key_layout="bnhd", value_layout="bnhd")
queries_first = dict(query_layout="bnhd", output_layout="bnhd")
for rows, keys, changes in (
    (37, 45, dict(mask="boolean", mask_shape=(1, 2, 37, 45))),
    (37, 45, dict(mask="additive", mask_shape=(1, 1, 37, 45), **keys_first)),
    (37, 45, dict(mask="boolean", mask_shape=(1, 1, 1, 45), **queries_first)),
    (3, 45, dict(mask="boolean", mask_shape=(1, 2, 3, 45))),
    (1, 1, dict(mask="additive", mask_shape=(1, 1, 1, 1), **queries_first)),
    (7, 1300, dict(mask="additive", mask_shape=(1, 1, 7, 1300), **keys_first)),
    (2, 1300, dict(mask="boolean", mask_shape=(1, 1, 1, 1300), is_causal=True)),
):
    parameters = make_parameters(query_length=rows, kv_length=keys, **sizes, **changes)
    operands = random_operands(parameters, 0)
    kernel = make_attention_kernel(parameters, cache_dir=sys.argv[1])
    output = guarded(np.zeros(parameters.output_shape, np.float32))
    arrays = [operands.query, operands.key, operands.value, operands.mask]
    kernel.run(*map(guarded, arrays), output, guarded(np.zeros(kernel.scratch_bytes(1), np.uint8)))
    attend(parameters, operands).check(output)
"""
    support = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(support)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
