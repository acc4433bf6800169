"""A backward kernel checks its arrays, divides work without overlaps, stays in its memory."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.attention_reference import random_operands
from support.gradient_reference import differentiate
from support.kernel_strategies import FORMS, make_parameters

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.errors import UnsupportedError
from hocket.runtime.kernels.backward import backward_source
from hocket.runtime.kernels.backward_plan import gradient_form, plan_passes, scratch_layout
from hocket.runtime.kernels.backward_tiles import column_groups
from hocket.runtime.kernels.gradients import AttentionGradient, make_attention_gradient
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., AttentionGradient]

CPU = CpuFeatures("any", 16, 32)
SHAPE = {"batch": 2, "query_heads": 4, "kv_heads": 2, "query_length": 20, "kv_length": 30}
EXTENTS = {"none": None, "key": (1, 1, 1, 16), "query": (1, 1, 16, 1), "both": (1, 1, 16, 16)}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("kernels")

    def make_gradient(has_mask_gradient: bool = False, **changes: Any) -> AttentionGradient:
        parameters = make_parameters(**{**SHAPE, **changes})
        return make_attention_gradient(
            parameters, cache_dir=folder, has_mask_gradient=has_mask_gradient
        )

    return make_gradient


def arrays_of(kernel: AttentionGradient, num_threads: int = 1) -> dict[str, Any]:
    """The arrays of a run, by the names of the arguments."""
    parameters = kernel.parameters
    operands = random_operands(parameters, seed=0)
    saved, _ = differentiate(parameters, operands, seed=0)
    return {
        "query": operands.query,
        "key": operands.key,
        "value": operands.value,
        "mask": operands.mask,
        "output": saved.output,
        "log_sum_exp": saved.log_sum_exp,
        "output_gradient": saved.output_gradient,
        "query_gradient": np.zeros(parameters.query_shape, np.float32),
        "key_gradient": np.zeros(parameters.key_shape, np.float32),
        "value_gradient": np.zeros(parameters.value_shape, np.float32),
        "scratch": np.zeros(kernel.scratch_bytes(num_threads), np.uint8),
    }


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("query", lambda a: a.astype(np.float64), "query: want float32, got float64"),
        ("key", lambda a: a[:, :, :-1], r"key: want shape \[2, 2, 30, 16\]"),
        ("value", np.asfortranarray, "value: want a C-contiguous array"),
        ("mask", lambda _: np.zeros((1, 1, 1, 30), np.float32), "mask: the kernel takes none"),
        ("output", lambda a: a[..., :-1], "output: want shape"),
        ("log_sum_exp", lambda _: None, "log_sum_exp: want shape .* got None"),
        ("output_gradient", lambda a: a.astype(np.float16), "output_gradient: want float32"),
        ("query_gradient", lambda a: a[:1], "query_gradient: want shape"),
        ("key_gradient", lambda a: np.broadcast_to(a[:1], a.shape), "key_gradient: want a C-cont"),
        ("value_gradient", read_only, "value_gradient: the array is read-only"),
        ("mask_gradient", lambda _: np.zeros(3, np.float32), "mask_gradient: the kernel takes"),
        ("scratch", lambda a: a[:-1], "scratch: 1 threads want"),
        ("scratch", lambda a: a.view(np.int8), "scratch: want a contiguous uint8 array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    make: Make, name: str, spoil: Callable[[Any], Any], message: str
) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    arrays[name] = spoil(arrays.get(name))
    with pytest.raises(ValueError, match=message):
        kernel.bind(**arrays)


def test_only_added_masks_have_gradients(make: Make) -> None:
    with pytest.raises(UnsupportedError, match="not 'boolean'"):
        make(has_mask_gradient=True, mask="boolean", mask_shape=(1, 1, 1, 30))
    with pytest.raises(UnsupportedError, match="not 'none'"):
        make(has_mask_gradient=True)


def test_scratch_must_do_for_all_threads_of_the_pool(make: Make) -> None:
    kernel = make()
    bound = kernel.bind(**arrays_of(kernel))
    with WorkerPool(2) as pool, pytest.raises(ValueError, match="2 threads want"):
        bound.run(pool)


def test_bound_arrays_may_change_between_runs(make: Make) -> None:
    kernel = make()
    arrays = arrays_of(kernel)
    bound = kernel.bind(**arrays)
    bound.run()
    once = arrays["query_gradient"].copy()
    arrays["output_gradient"] *= 2
    bound.run()
    np.testing.assert_allclose(arrays["query_gradient"], 2 * once, rtol=1e-5, atol=1e-6)


def test_layers_of_other_lengths_share_code(make: Make) -> None:
    assert make().function is make(query_length=1, kv_length=7, scale=3.0).function
    assert make().function is not make(is_causal=True).function


def test_scratch_is_a_few_tiles_and_a_number_a_row(make: Make) -> None:
    usual = make(head_dim=64, value_dim=64)
    longer = make(head_dim=64, value_dim=64, query_length=20_000, kv_length=30_000)
    assert usual.worker_bytes == longer.worker_bytes < 128 * 1024
    rows = 2 * 4 * 20_000
    shared = longer.scratch_bytes(3) - 3 * longer.worker_bytes
    assert rows * 4 <= shared <= rows * 4 + 3 * 64


@pytest.mark.parametrize("num_threads", [1, 2, 5, 64])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": 3, "query_heads": 4, "kv_heads": 2},
        {"query_length": 1000, "kv_length": 700},
        {"mask": "additive", "mask_shape": (1, 1, 100, 100)},
        {"mask": "additive", "mask_shape": (1, 2, 100, 100), "query_heads": 2, "kv_heads": 2},
        {"mask": "additive", "mask_shape": (3, 2, 1, 100), "batch": 3, "query_heads": 2},
        {"mask": "additive", "mask_shape": (1, 1, 1, 1)},
        {"mask": "additive", "mask_shape": (1, 1, 100, 1), "batch": 4},
    ],
)
def test_each_sum_is_made_once_and_by_one_item(changes: dict[str, Any], num_threads: int) -> None:
    """An item is a box of batches, heads, keys and queries; sums run over some of these axes."""
    parameters = make_parameters(**{"query_length": 100, "kv_length": 100, **changes})
    form = gradient_form(parameters, CPU, has_mask_gradient=parameters.mask == "additive")
    passes = plan_passes(parameters, form, num_threads)
    extents = (*parameters.scores_shape[:2], parameters.kv_length, parameters.query_length)
    group = parameters.query_heads // parameters.kv_heads
    made = {"queries": 0, "keys": 0, "mask": 0}
    for part in passes:
        each = (part.batches_each, part.heads_each, part.keys_each, part.queries_each)
        assert part.num_items(parameters) == np.prod(
            [-(-extent // size) for extent, size in zip(extents, each, strict=True)]
        )
        if part.does_queries:
            made["queries"] += 1
            assert part.keys_each >= parameters.kv_length
        if part.does_keys:
            made["keys"] += 1
            assert part.queries_each >= parameters.query_length
            assert part.heads_each % group == 0
        if part.does_mask:
            made["mask"] += 1
            assert parameters.mask_shape is not None
            batches, heads, rows, columns = parameters.mask_shape
            stored = (batches, heads, columns, rows)
            assert all(
                size >= full
                for size, full, kept in zip(each, extents, stored, strict=True)
                if kept == 1
            )
    assert made == {"queries": 1, "keys": 1, "mask": int(form.has_mask_gradient)}


def test_few_heads_are_divided_further_for_many_threads() -> None:
    parameters = make_parameters(query_length=1000, kv_length=1000, query_heads=2, kv_heads=2)
    form = gradient_form(parameters, CPU, has_mask_gradient=False)
    assert [len(plan_passes(parameters, form, threads)) for threads in (1, 2, 3, 8)] == [1, 1, 2, 2]
    assert all(part.num_items(parameters) >= 8 for part in plan_passes(parameters, form, 8))


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("columns", [1, 16, 17, 64, 80, 96, 128, 144, 1024])
def test_column_groups_cover_all_columns_and_fit_the_registers(
    columns: int, registers: int
) -> None:
    vectors = []
    for group in column_groups(columns, 16, registers):
        assert group.vectors * (group.rows + 1) + 1 < registers
        vectors += range(group.start, group.start + group.vectors * group.turns)
    assert vectors == list(range(-(-columns // 16)))


def test_parts_of_scratch_do_not_overlap() -> None:
    form = gradient_form(make_parameters(head_dim=5, value_dim=7), CPU, has_mask_gradient=False)
    layout = scratch_layout(form)
    row = form.forward.row_bytes
    places = [getattr(layout, name) for name in vars(layout)]
    assert places == sorted(places)
    assert layout.values - layout.keys >= 5 * row
    assert layout.key_sums - layout.values >= 7 * row
    assert layout.gradients - layout.scores >= (96 + form.forward.tile_rows) * row
    assert layout.total_bytes % 64 == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_text_is_a_module_that_a_person_can_read(form: Any, lanes: int) -> None:
    names = [
        "head_dim",
        "value_dim",
        "mask",
        "masked_rows",
        "is_causal",
        "dtype",
        "has_kv_lengths",
        "counts_from_end",
        "has_slopes",
    ]
    parameters = make_parameters(
        **{name: getattr(form, name) for name in names},
        mask_shape=EXTENTS[form.mask_axes],
        left_window=5 if form.has_left_window else None,
        right_window=5 if form.has_right_window else None,
        softcap=3.0 if form.has_softcap else 0.0,
    )
    cpu = CpuFeatures("any", lanes, 32 if lanes == 16 else 16)
    for has_mask_gradient in {False, form.mask == "additive"}:
        source = backward_source(
            gradient_form(parameters, cpu, has_mask_gradient=has_mask_gradient), cpu
        )
        module = ast.parse(source.text)
        defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
        assert tuple(defined) == source.entry_names
        assert source.text.isascii()
        assert max(map(len, source.text.splitlines())) <= 100
        assert str(form.head_dim) in (ast.get_docstring(module) or "")


def test_forms_differ_in_digest() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"head_dim": 17},
        {"is_causal": True},
        {"softcap": 3.0},
        {"dtype": DType.FLOAT64},
        {"mask": "additive", "mask_shape": (1, 1, 1, 16)},
        {"mask": "additive", "mask_shape": (1, 1, 16, 16)},
    ]
    forms = [
        gradient_form(make_parameters(**change), CPU, has_mask_gradient=wants)
        for change, wants in itertools.product(changes, (False, True))
        if not wants or "mask" in change
    ]
    assert len({backward_source(form, CPU).digest for form in forms}) == len(forms)


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_is_read_or_written_past_the_ends_of_arrays(tmp_path: Path) -> None:
    """Every array ends where a page begins that nobody may touch."""
    program = """
import ctypes, mmap, sys
import numpy as np
from support.attention_reference import random_operands
from support.gradient_reference import differentiate
from support.kernel_strategies import make_parameters
from hocket.runtime.kernels.gradients import make_attention_gradient

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

sizes = dict(query_heads=2, kv_heads=2, query_length=37, kv_length=45, head_dim=5, value_dim=7)
for changes in (
    dict(mask="boolean", mask_shape=(1, 2, 37, 45)),
    dict(mask="additive", mask_shape=(1, 1, 37, 45), key_layout="bnhd", value_layout="bnhd"),
    dict(mask="additive", mask_shape=(1, 1, 1, 45), query_layout="bnhd", output_layout="bnhd"),
    dict(is_causal=True, left_window=9),
):
    parameters = make_parameters(**sizes, **changes)
    operands = random_operands(parameters, 0)
    saved, expected = differentiate(parameters, operands, 0)
    wants_mask = parameters.mask == "additive"
    kernel = make_attention_gradient(
        parameters, cache_dir=sys.argv[1], has_mask_gradient=wants_mask
    )
    found = [guarded(np.zeros(getattr(parameters, f"{name}_shape"), np.float32))
             for name in ("query", "key", "value")]
    mask_gradient = guarded(np.zeros(parameters.mask_shape, np.float32)) if wants_mask else None
    kernel.bind(
        guarded(operands.query), guarded(operands.key), guarded(operands.value),
        mask=None if operands.mask is None else guarded(operands.mask),
        output=guarded(saved.output), log_sum_exp=guarded(saved.log_sum_exp),
        output_gradient=guarded(saved.output_gradient), query_gradient=found[0],
        key_gradient=found[1], value_gradient=found[2], mask_gradient=mask_gradient,
        scratch=guarded(np.zeros(kernel.scratch_bytes(1), np.uint8)),
    ).run()
    for gradient, right in zip(found, (expected.query, expected.key, expected.value)):
        right.check(gradient)
    if wants_mask:
        expected.mask.check(mask_gradient)
"""
    support = Path(__file__).parents[3]
    paths = os.pathsep.join([str(support), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
