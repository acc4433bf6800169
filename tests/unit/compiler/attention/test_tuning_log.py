"""The tuning log: what it gives back, and all that it must not believe."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.onnx_models import attention_op_model

from hocket.compiler.attention import lower
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search import tuning_log
from hocket.compiler.attention.search.objective import Energy, Latency
from hocket.compiler.attention.search.searcher import Budget, Evaluator, SearchResult
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.attention.search.tuning_log import LOG_VARIABLE, TuningLog, default_path
from hocket.compiler.attention.tiling import Tiling
from hocket.compiler.driver import compile_model
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.options import CompileOptions
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.estimate import Estimate
from hocket.hwmodels.loader import load_target

PROBLEM = AttentionProblem(1, 2, 2, 32, 32, 8, 8, DType.FLOAT16, 0.25)
MACHINE = load_target("mas-edge")
SPACE = TilingSpace(PROBLEM, MACHINE, DATAFLOWS["hocket"])
BUDGET = Budget(evaluations=20)


@functools.cache
def search(budget: Budget = BUDGET) -> SearchResult:
    return SEARCHERS["random"].search(SPACE, Latency(), budget, 0)


@pytest.fixture
def log(tmp_path: Path) -> TuningLog:
    return TuningLog(tmp_path / "new" / "tuning.jsonl")


@pytest.fixture
def recorded(log: TuningLog) -> TuningLog:
    """A log with one result of a random search, not proved to be the best."""
    log.record(SPACE, Latency(), BUDGET, search(), searcher="random")
    return log


def found(log: TuningLog, **changes: Any) -> bool:
    """Whether the log answers the question it was given the answer to, but for some changes."""
    asked: dict[str, Any] = {
        "space": SPACE,
        "objective": Latency(),
        "budget": BUDGET,
        "searcher": "random",
        "seed": 0,
        **changes,
    }
    return next(log.lookup(**asked), None) is not None


def test_what_was_recorded_is_found_again_by_everyone(recorded: TuningLog) -> None:
    best = search().best
    for log in (recorded, TuningLog(recorded.path)):
        (result,) = log.lookup(SPACE, Latency(), BUDGET, searcher="random")
        assert result.tiling == best.tiling
        assert (result.cycles, result.joules) == (best.estimate.cycles, best.estimate.joules)
        assert result.num_legal == len(SPACE.legal)
        assert not result.is_optimal


def test_a_log_that_is_not_there_knows_nothing(log: TuningLog) -> None:
    assert not found(log)
    assert not log.path.exists()


def test_the_file_is_the_users_own(recorded: TuningLog) -> None:
    assert stat.S_IMODE(recorded.path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"space": dataclasses.replace(SPACE, problem=dataclasses.replace(PROBLEM, batch=2))},
        {
            "space": dataclasses.replace(
                SPACE, machine=dataclasses.replace(MACHINE, leakage_watts=0.1)
            )
        },
        {
            "space": dataclasses.replace(
                SPACE,
                machine=dataclasses.replace(
                    MACHINE, dma=dataclasses.replace(MACHINE.dma, latency_cycles=1)
                ),
            )
        },
        {"space": dataclasses.replace(SPACE, dataflow=DATAFLOWS["mas"])},
        {"objective": Energy()},
        {"objective": Latency(tolerance=0.0)},
        {"budget": Budget(evaluations=21)},
        {"budget": Budget(evaluations=20, tasks=1_000_001)},
        {"searcher": "tree"},
        {"seed": 1},
    ],
)
def test_the_answer_to_another_question_is_none(
    recorded: TuningLog, changes: dict[str, Any]
) -> None:
    assert not found(recorded, **changes)


def test_a_smaller_budget_is_answered(recorded: TuningLog) -> None:
    assert found(recorded, budget=Budget(evaluations=19, tasks=1000))


def test_another_version_starts_anew(recorded: TuningLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_log, "MODEL_VERSION", tuning_log.MODEL_VERSION + 1)
    assert not found(recorded)


def test_what_is_proved_to_be_best_answers_every_searcher(log: TuningLog) -> None:
    log.record(SPACE, Latency(), BUDGET, dataclasses.replace(search(), is_optimal=True))
    assert found(log, searcher="tree", seed=5, budget=Budget(evaluations=1 << 70))


def test_of_several_answers_the_newest_comes_first(log: TuningLog) -> None:
    """A search is made again only if what was known before has turned out not to be true."""
    for evaluations in (20, 200, 5, 50):
        budget = Budget(evaluations=evaluations)
        log.record(SPACE, Latency(), budget, search(budget), searcher="random")
    results = log.lookup(SPACE, Latency(), BUDGET, searcher="random")
    assert [each.evaluations for each in results] == [50, 200, 20]


def test_a_search_held_to_a_time_is_not_recorded(log: TuningLog) -> None:
    budget = Budget(evaluations=20, seconds=1e9, clock=lambda: 0.0)
    log.record(SPACE, Latency(), budget, search(budget), searcher="random")
    assert not log.path.exists()
    log.record(SPACE, Latency(), budget, dataclasses.replace(search(budget), is_optimal=True))
    assert found(log)


def rewrite(log: TuningLog, **changes: Any) -> None:
    """Change fields of the one result in a log; those of the tiling by ``tiling=``."""
    fields = json.loads(log.path.read_text())
    fields["tiling"].update(changes.pop("tiling", {}))
    log.path.write_text(json.dumps({**fields, **changes}) + "\n")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe{}",
        b"[" * 10_000,
        b'{"key": "' + b"x" * 20_000 + b'"}',
        b'{"key": 1e999999}',
        b"{}",
    ],
)
def test_corrupt_lines_are_skipped_and_named(
    recorded: TuningLog, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    content = recorded.path.read_bytes()
    recorded.path.write_bytes(content + line + b"\n\n" + content)
    with caplog.at_level(logging.WARNING):
        assert found(recorded)
        assert found(recorded)
    assert len(caplog.messages) == 1
    assert f"{recorded.path}, line 2: skipped" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"cycles": float("nan")},
        {"cycles": -1.0},
        {"cycles": True},
        {"joules": "0.1"},
        {"joules": 10**400},
        {"is_optimal": 1},
        {"evaluations": 20.0},
        {"evaluations": -1},
        {"tasks": 1 << 64},
        {"searcher": None},
        {"seed": [0]},
        {"num_legal": None},
        {"key": 7},
        {"tiling": {"query_rows": 0}},
        {"tiling": {"query_rows": 16.0}},
        {"tiling": {"query_rows": True}},
        {"tiling": {"prefetch_blocks": -1}},
        {"tiling": {"softmax": "exact"}},
        {"tiling": {"split": 0}},
        {"tiling": {"blocks": 3}},
    ],
)
def test_fields_of_another_type_or_range_are_refused(
    recorded: TuningLog, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(recorded, **changes)
    with caplog.at_level(logging.WARNING):
        assert not found(recorded)
    assert f"{recorded.path}, line 1: skipped" in caplog.text


@pytest.mark.parametrize(
    "tiling",
    [
        {"query_rows": 31},
        {"query_rows": 1 << 40},
        {"kv_columns": 7},
        {"heads": 2},
        {"live_blocks": 3},
        {"resident_tiles": 1},
        {"resident_tiles": 10**9},
        {"prefetch_blocks": 10**6},
        {"fill_columns": 5},
        {"cores": 5},
    ],
)
def test_tilings_of_another_space_are_not_built(
    recorded: TuningLog, tiling: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(recorded, tiling=tiling)
    with caplog.at_level(logging.WARNING):
        assert not found(recorded)
    assert "not one of its space" in caplog.text


def test_a_tiling_that_does_not_fit_is_not_built(recorded: TuningLog) -> None:
    capacity = int(SPACE.demands.min())
    memory = dataclasses.replace(MACHINE.on_chip_memory, capacity_bytes=capacity)
    small = TilingSpace(
        PROBLEM, dataclasses.replace(MACHINE, on_chip_memory=memory), SPACE.dataflow
    )
    largest = SPACE.tiling(int(SPACE.demands.argmax()))
    assert SPACE.holds(largest)
    assert not small.holds(largest)
    rewrite(
        recorded,
        key=tuning_log._digest(small, Latency()),
        tiling=dataclasses.asdict(largest)
        | {"softmax": largest.softmax.value, "split": largest.split.value},
    )
    assert not found(recorded, space=small)


def test_all_tilings_of_a_space_are_its_own() -> None:
    legal = SPACE.legal
    for index in legal[:: len(legal) // 200].tolist():
        assert SPACE.holds(SPACE.tiling(index))


def test_a_line_cut_short_harms_only_itself(recorded: TuningLog) -> None:
    content = recorded.path.read_bytes()
    recorded.path.write_bytes(content[:100])
    assert not found(recorded)
    recorded.record(SPACE, Latency(), BUDGET, search(), searcher="random")
    assert found(recorded)
    assert recorded.path.read_bytes() == content[:100] + b"\n" + content


def test_lines_written_at_once_do_not_mix(tmp_path: Path) -> None:
    path, result = tmp_path / "tuning.jsonl", search()

    def write(seed: int) -> None:
        TuningLog(path).record(SPACE, Latency(), BUDGET, result, searcher="random", seed=seed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    seeds = [json.loads(line)["seed"] for line in path.read_text().splitlines() if line]
    assert sorted(seeds) == list(range(200))


def test_of_a_log_grown_too_long_the_newest_part_is_read(
    recorded: TuningLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.record(SPACE, Latency(), BUDGET, search(), searcher="random", seed=9)
    size = recorded.path.stat().st_size
    monkeypatch.setattr(tuning_log, "MAX_FILE_BYTES", size * 2 // 3)
    with caplog.at_level(logging.WARNING):
        assert found(TuningLog(recorded.path), seed=9)
        assert not found(TuningLog(recorded.path), seed=0)
    assert "only the newest" in caplog.text
    assert "skipped" not in caplog.text


def test_a_log_that_cannot_be_used_is_no_mishap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "tuning.jsonl"):
        log = TuningLog(path)
        with caplog.at_level(logging.WARNING):
            log.record(SPACE, Latency(), BUDGET, search(), searcher="random")
            assert not found(log)
        assert f"{path} cannot be written" in caplog.text


def lowered(log: TuningLog | None, **changes: Any) -> SearchResult:
    return lower_attention(PROBLEM, MACHINE, budget=BUDGET, log=log, verify=True, **changes)


def test_a_hit_gives_what_the_search_gave_without_searching(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, first = lowered(None), lowered(log)
    monkeypatch.setattr(lower, "SEARCHERS", {"exhaustive": None})
    hit = lowered(log)
    for result in (first, hit):
        assert result.best.tiling == plain.best.tiling
        assert result.best.estimate == plain.best.estimate
        assert result.best.program.places.tobytes() == plain.best.program.places.tobytes()
        assert result.is_optimal == plain.is_optimal
        assert result.num_legal == plain.num_legal
        assert result.dataflow == plain.dataflow
    assert first.stop_reason == plain.stop_reason
    assert hit.stop_reason == "taken from the tuning log"
    assert hit.num_evaluated == 1
    assert len(log.path.read_text().splitlines()) == 1


@pytest.mark.parametrize("field", ["cycles", "joules"])
def test_a_result_that_is_no_longer_true_is_searched_anew(
    log: TuningLog, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = lowered(log)
    rewrite(log, **{field: 1e-3}, is_optimal=True)
    with caplog.at_level(logging.WARNING):
        again = lowered(log)
    assert "passed over" in caplog.text
    assert again.best.estimate == first.best.estimate
    assert again.stop_reason == first.stop_reason


def worsen(log: TuningLog, **changes: Any) -> None:
    """Add the first line of a log to its end, with some fields changed."""
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([*lines, json.dumps({**json.loads(lines[0]), **changes})]) + "\n")


def test_a_line_that_is_not_true_does_not_hide_the_next_one(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lowered(log)
    worsen(log, cycles=1.0, is_optimal=True)
    worsen(log, joules=1e-30, is_optimal=True, searcher="tree", seed=3)
    monkeypatch.setattr(lower, "SEARCHERS", {"exhaustive": None})
    hit = lowered(log)
    assert hit.best.estimate == first.best.estimate
    assert hit.stop_reason == "taken from the tuning log"


def test_after_lines_that_are_not_true_one_search_is_enough(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lowered(log)
    for seed in range(20):
        worsen(log, cycles=1.0, is_optimal=True, seed=seed)
    assert lowered(log).stop_reason == first.stop_reason
    monkeypatch.setattr(lower, "SEARCHERS", {"exhaustive": None})
    hit = lowered(log)
    assert hit.best.estimate == first.best.estimate
    assert hit.num_evaluated == 1


def test_a_line_that_cannot_be_evaluated_is_passed_over(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lowered(log)
    worsen(log)
    refused: list[Tiling] = []
    evaluate = Evaluator.evaluate

    def refuse_once(self: Evaluator, tiling: Tiling) -> Estimate:
        if not refused:
            refused.append(tiling)
            raise InfeasibleError("too long to simulate")
        return evaluate(self, tiling)

    monkeypatch.setattr(Evaluator, "evaluate", refuse_once)
    assert lowered(log).best.estimate == first.best.estimate
    assert refused


def test_a_compilation_uses_the_log_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    options = CompileOptions(tuning_log=str(path))
    shape = (1, 2, 16, 8)
    model = attention_op_model(shape, shape, shape, shape)
    first = compile_model(model, options=options)
    assert len(path.read_text().splitlines()) == 1
    second = compile_model(model, options=options)
    assert len(path.read_text().splitlines()) == 1
    assert first.digest == second.digest


def test_where_the_log_is_can_be_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(LOG_VARIABLE, raising=False)
    usual = default_path()
    assert usual is not None
    assert usual.name == "tuning.jsonl"
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"
    monkeypatch.setenv(LOG_VARIABLE, "")
    assert default_path() is None
