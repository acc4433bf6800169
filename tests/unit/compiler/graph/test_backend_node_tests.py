"""The attention cases of ONNX's own backend tests, whole and written out.

What is taken must give what ONNX expects; what is not must be named. The counts keep a change from
losing a form unseen; they go up as more is compiled.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx.backend.test.loader import load_node_model_tests
from support.graph_wing import attention_regions, cut
from support.partition_executor import run_partitioned

if TYPE_CHECKING:
    from hocket.compiler.graph.regions import PartitionedModel

TAKEN = {"whole": 75, "written out": 75}


@pytest.fixture(scope="module")
def cases() -> list[tuple[Any, PartitionedModel]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            case for case in load_node_model_tests() if case.name.startswith("test_attention_")
        ]
    return [(case, cut(case.model)) for case in found]


def kind_of(case: Any) -> str:
    return "written out" if case.name.endswith("_expanded") else "whole"


def test_all_cases_are_there(cases: list[tuple[Any, PartitionedModel]]) -> None:
    assert Counter(kind_of(case) for case, _ in cases) == {"whole": 93, "written out": 93}


def test_no_form_is_lost(cases: list[tuple[Any, PartitionedModel]]) -> None:
    counts = Counter(kind_of(case) for case, cut_model in cases if attention_regions(cut_model))
    assert counts == TAKEN


def test_each_case_is_taken_or_has_a_reason(cases: list[tuple[Any, PartitionedModel]]) -> None:
    for case, partitioned in cases:
        found = len(attention_regions(partitioned)) + len(partitioned.not_taken)
        assert found == 1, case.name


def test_what_is_taken_gives_what_onnx_expects(cases: list[tuple[Any, PartitionedModel]]) -> None:
    compared = 0
    for case, partitioned in cases:
        dtypes = {info.dtype for info in partitioned.values.values()}
        if not attention_regions(partitioned) or "bfloat16" in dtypes:
            continue  # numpy has no bfloat16 to compare with
        tolerance = 2e-3 if "float16" in dtypes else 1e-5
        for inputs, expected in case.data_sets:
            feeds = {
                info.name: array for info, array in zip(partitioned.inputs, inputs, strict=True)
            }
            for mine, theirs in zip(run_partitioned(partitioned, feeds), expected, strict=True):
                np.testing.assert_allclose(
                    mine, theirs, rtol=tolerance, atol=tolerance, err_msg=case.name
                )
        compared += 1
    assert compared >= 95
