"""Models of others, in the short form: every attention found, nothing else, onnxruntime's numbers.

The whole table is ``bench/model_coverage.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_coverage import MODELS, QUICK, work_of
from zoo.exports import find_missing
from zoo.models import Model, ZooError
from zoo.packaged import PACKAGED, find_file
from zoo.survey import Row, survey

MISSING = find_missing()


def shortest(model: Model, cache: Path) -> Row:
    variant, size = next(work_of(model, quick=True))
    return survey(model, variant, size, cache)


def check(row: Row) -> None:
    assert row.problem == ""
    assert row.wrong == ""
    assert row.in_tolerance, (row.max_abs_error, row.worst, row.judged)
    assert row.found + len(row.left) == row.expected + row.decoys, "something was dropped silently"


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_trained_models_are_compiled_right(model: Model, tmp_path: Path) -> None:
    try:
        find_file(model.package, model.file, model.version)
    except ZooError as error:
        pytest.skip(str(error))
    row = shortest(model, tmp_path)
    check(row)
    assert row.found == row.expected, row.left


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("name", QUICK)
def test_exports_are_compiled_right(name: str, tmp_path: Path) -> None:
    row = shortest(MODELS[name], tmp_path)
    check(row)
    assert row.found == row.expected, row.left
    assert row.copied == 0
