"""Generated text depends on what must be compiled and on nothing else."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from support.kernel_strategies import FORMS, make_parameters, parameters_of

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.kernels import source as source_module
from hocket.runtime.kernels.generator import generate_source

CPU = CpuFeatures("any", 16, 32)

# Query lengths that the two kernels are for.
both_kernels = pytest.mark.parametrize("query_length", [3, 40])


@both_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"kv_length": 4000},
        {"batch": 3},
        {"query_heads": 12, "kv_heads": 4},
        {"scale": 17.125},
        {"query_rows": 1, "kv_columns": 1},
        {"query_layout": "bnhd", "output_layout": "bnhd"},
        {"masked_value": -10000.0},
    ],
)
def test_layers_that_differ_in_sizes_share_a_source(
    query_length: int, change: dict[str, Any]
) -> None:
    first = make_parameters(query_length=query_length)
    second = make_parameters(query_length=query_length + 1, **change)
    assert generate_source(first, CPU) == generate_source(second, CPU)


def test_few_rows_and_many_have_kernels_of_their_own() -> None:
    few, most, many = (
        generate_source(make_parameters(query_length=length), CPU).text for length in (1, 16, 17)
    )
    assert few == most
    assert many != few


@both_kernels
def test_forms_differ_in_text_and_digest(query_length: int) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"head_dim": 17},
        {"value_dim": 17},
        {"is_causal": True},
        {"masked_rows": "zero"},
        {"mask": "additive", "mask_shape": (1, 1, 1, 16)},
        {"mask": "boolean", "mask_shape": (1, 1, 1, 16)},
        {"mask": "additive", "mask_shape": (1, 1, query_length, 16)},
        {"mask": "additive", "mask_shape": (1, 1, query_length, 1)},
        {"left_window": 3},
        {"right_window": 3, "left_window": 3},
        {"softcap": 3.0},
        {"has_kv_lengths": True},
        {"has_kv_lengths": True, "counts_from_end": True, "is_causal": True},
        {"has_slopes": True},
        {"saves_log_sum_exp": True},
        {"dtype": DType.FLOAT16},
        {"dtype": DType.BFLOAT16},
    ]
    sources = [
        generate_source(make_parameters(query_length=query_length, **change), CPU)
        for change in changes
    ]
    assert len({source.digest for source in sources}) == len(changes)
    assert len({source.text for source in sources}) == len(changes)


@both_kernels
@pytest.mark.parametrize(
    "changes",
    [
        ({"is_causal": True}, {"is_causal": True, "query_offset": 7}),
        ({"left_window": 3}, {"left_window": 400}),
        ({"right_window": 0}, {"is_causal": True}),
        ({"softcap": 3.0}, {"softcap": 50.0}),
    ],
)
def test_positions_and_caps_are_handed_over(
    query_length: int, changes: tuple[dict[str, Any], ...]
) -> None:
    first, second = (
        generate_source(make_parameters(query_length=query_length, **change), CPU)
        for change in changes
    )
    assert first == second


def test_digest_covers_cpu_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = make_parameters()
    source = generate_source(parameters, CPU)
    elsewhere = generate_source(parameters, CpuFeatures("other", 16, 32))
    assert elsewhere.text == source.text
    assert elsewhere.digest != source.digest
    monkeypatch.setattr(source_module, "_toolchain_digest", lambda: "other tiles")
    assert generate_source(parameters, CPU).digest != source.digest


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("lanes", [4, 8, 16])
@both_kernels
def test_text_is_a_module_that_a_person_can_read(form: Any, lanes: int, query_length: int) -> None:
    source = generate_source(
        parameters_of(form, query_length), CpuFeatures("any", lanes, 32 if lanes == 16 else 16)
    )
    module = ast.parse(source.text)
    defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    assert tuple(defined) == source.entry_names
    assert source.text.isascii()
    assert max(map(len, source.text.splitlines())) <= 100
    assert str(form.head_dim) in (ast.get_docstring(module) or "")


def test_no_float_of_the_parameters_is_in_the_text() -> None:
    """They are handed over at the call, so none can be spelled wrongly."""
    parameters = make_parameters(
        scale=0.1234567, masked_value=-math.inf, mask="boolean", mask_shape=(1, 1, 1, 16)
    )
    assert "0.1234567" not in generate_source(parameters, CPU).text
