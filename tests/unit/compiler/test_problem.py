"""Attention problems: sizes that go together, and none that nobody could count."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hocket.compiler.problem import MAX_EXTENT, MAX_SCORES, AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType

PROBLEM = AttentionProblem(2, 4, 2, 8, 16, 32, 64, DType.FLOAT16, 0.5)
SIZES = ("batch", "query_heads", "kv_heads", "query_length", "kv_length", "head_dim", "value_dim")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, -1, MAX_EXTENT + 1, 10**400, True, 2.0, "2", None])
def test_a_size_that_is_none_is_named(name: str, size: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be an integer from 1 to 16,777,216"):
        dataclasses.replace(PROBLEM, **{name: size})


@pytest.mark.parametrize("name", ["batch", "query_length", "kv_length", "head_dim", "value_dim"])
def test_every_size_may_be_large(name: str) -> None:
    assert getattr(dataclasses.replace(PROBLEM, **{name: MAX_EXTENT}), name) == MAX_EXTENT


def test_all_scores_together_have_a_limit() -> None:
    largest = dataclasses.replace(PROBLEM, batch=1, query_length=1 << 24, kv_length=1 << 24)
    assert math.prod(largest.scores_shape) == MAX_SCORES
    with pytest.raises(ValueError, match=r"scores of shape \(2, 4, 16777216, 16777216\)"):
        dataclasses.replace(largest, batch=2)


def test_a_masked_value_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="masked_value"):
        dataclasses.replace(
            PROBLEM, mask=MaskKind.BOOLEAN, mask_shape=(1, 1, 1, 1), masked_value=math.nan
        )
