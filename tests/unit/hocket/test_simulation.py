"""One attention without a model: problems, machines, results, and what they are called."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hocket
from hocket import simulation
from hocket.cli import app
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.objective import OBJECTIVES
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.errors import TargetError
from hocket.hwmodels.loader import load_target
from hocket.networks import NETWORKS, network_sizes
from hocket.simulation_result import describe_question, infeasible_to_json

SIZES = (2, 64, 16)
BUDGET = 4_000

CONTRACT = (
    "network",
    "problem",
    "target",
    "dataflow",
    "cycles",
    "bound_cycles",
    "energy_joules",
    "dram_bytes",
    "matrix_utilization",
    "vector_utilization",
    "peak_on_chip_bytes",
    "search_seconds",
)


@pytest.fixture(scope="module")
def result() -> hocket.SimulationResult:
    return hocket.simulate(SIZES, "mas-edge", budget_tasks=BUDGET)


def test_there_are_the_networks_of_the_paper() -> None:
    assert len(NETWORKS) == 12
    assert network_sizes("bert-base") == (12, 512, 64)
    assert network_sizes("vit-h-16") == (16, 196, 80)
    with pytest.raises(ValueError, match="did you mean 'bert-base'"):
        network_sizes("bert-bas")


def test_a_result_agrees_with_itself(result: hocket.SimulationResult) -> None:
    estimate = result.estimate
    assert result.dataflow == "hocket"
    assert result.timeline.cycles == estimate.cycles
    assert result.explanation.of_bound == pytest.approx(estimate.of_bound)
    assert result.machine == load_target("mas-edge")
    assert (result.problem.query_heads, result.problem.kv_length) == (2, 64)
    assert result.explanation.next_lever in str(result)


def test_a_result_as_json_keeps_the_contract(result: hocket.SimulationResult) -> None:
    answer = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(CONTRACT) <= set(answer)
    assert answer["network"] is None
    assert answer["infeasible"] is None
    assert answer["cycles"] == result.estimate.cycles
    assert answer["problem"]["head_dim"] == 16
    assert answer["tiling"]["softmax"] in ("full-row", "deferred", "online")
    parts = ("compute", "on_chip", "dram", "leakage")
    assert answer["energy_joules"] == pytest.approx(sum(answer[f"{part}_joules"] for part in parts))
    assert sum(answer["dram_bytes_by_tensor"].values()) == answer["dram_bytes"]
    assert sum(answer["losses"].values()) == pytest.approx(
        answer["cycles"] - answer["bound_cycles"]
    )


def test_a_search_has_its_front_and_history(result: hocket.SimulationResult) -> None:
    answer = json.loads(json.dumps(result.search_to_json(), allow_nan=False))
    cycles = [point["cycles"] for point in answer["front"]]
    joules = [point["energy_joules"] for point in answer["front"]]
    assert cycles == sorted(cycles)
    assert joules == sorted(joules, reverse=True)
    assert answer["history"][-1]["cycles"] == answer["cycles"]


def test_a_network_goes_by_its_name() -> None:
    found = hocket.simulate("vit-b-16", "mas-edge", dataflow="mas", budget_tasks=BUDGET)
    assert found.network == "vit-b-16"
    assert found.problem.kv_length == 196
    assert found.title == "vit-b-16 on mas-edge, dataflow mas"


def test_a_problem_and_a_machine_may_be_objects() -> None:
    machine = load_target("mas-edge")
    problem = simulation.make_problem(*SIZES, kv_heads=1, is_causal=True)
    found = hocket.simulate(problem, machine, budget_tasks=BUDGET)
    assert found.problem is problem
    assert found.machine is machine
    with pytest.raises(ValueError, match="has its sizes in it"):
        hocket.simulate(problem, machine, batch=2)


def test_a_decoding_step_has_one_query_row() -> None:
    found = hocket.simulate(SIZES, "mas-edge", query_length=1, kv_heads=1, budget_tasks=BUDGET)
    assert found.problem.query_length == 1
    assert found.problem.kv_length == 64
    assert found.problem.group_size == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "kv_heads must divide"),
        ({"query_length": 0}, "query_length must be an integer from 1"),
        ({"batch": 0}, "batch must be an integer from 1"),
        ({"query_length": 1, "is_causal": True}, "sees all keys and needs no mask"),
        ({"dataflow": "flat-out"}, "unknown dataflow 'flat-out'"),
        ({"searcher": "lucky"}, "unknown searcher 'lucky'"),
        ({"objective": "beauty"}, "unknown objective 'beauty'; there are latency, energy, pareto"),
        ({"budget_tasks": 0}, "budget_tasks must be an integer from 1 to 1,0.*, got 0"),
        ({"budget_seconds": 0.0}, "budget_seconds must be a number above 0"),
        ({"vector_cost": -1.0}, "vector_cost must be a number above 0"),
        ({"on_chip_bytes": 0}, "on_chip_bytes must be"),
        ({"problem": (2, 64, 0)}, "head_dim must be an integer from 1"),
        ({"problem": "bert-huge"}, "unknown network 'bert-huge'"),
        ({"problem": (2, 64)}, r"want heads, rows and columns.*got \(2, 64\)"),
        ({"problem": (2, 64, 32, 1)}, "want heads, rows and columns"),
        ({"problem": 3}, "want heads, rows and columns.*got 3"),
        ({"problem": None}, "want heads, rows and columns"),
        ({"problem": ("2", 64, 32)}, "heads must be an integer from 1 to 16,777,216, got '2'"),
        ({"problem": (2.5, 64, 32)}, "heads must be an integer"),
        ({"problem": (True, 64, 32)}, "heads must be an integer.*got True"),
        ({"problem": (2, 10**400, 32)}, "length must be an integer"),
        ({"problem": (8, 1 << 24, 64)}, "too many to count"),
        ({"problem": simulation.make_problem(2, 64, 16), "batch": 2}, "has its sizes in it"),
        ({"batch": True}, "batch must be an integer"),
        ({"kv_heads": 1.0}, "kv_heads must be an integer"),
        ({"query_length": "1"}, "query_length must be an integer"),
        ({"is_causal": 1}, "is_causal must be True or False, got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": None}, "seed must be an integer"),
        ({"budget_tasks": 2.5}, "budget_tasks must be an integer"),
        ({"budget_tasks": 10**400}, "budget_tasks must be an integer"),
        ({"budget_tasks": True}, "budget_tasks must be an integer"),
        ({"budget_seconds": float("nan")}, "budget_seconds must be a number above 0"),
        ({"budget_seconds": float("inf")}, "budget_seconds must be a number above 0"),
        ({"budget_seconds": "1"}, "budget_seconds must be a number above 0"),
        ({"vector_cost": float("nan")}, "vector_cost must be a number above 0"),
        ({"vector_cost": "3"}, "vector_cost must be a number above 0"),
        ({"vector_cost": 1e300}, "lane_cycles must be at most"),
        ({"on_chip_bytes": 2.5}, "on_chip_bytes must be an integer"),
        ({"on_chip_bytes": 1 << 60}, "on_chip_bytes must be"),
        ({"dataflow": ["mas"]}, "unknown dataflow"),
        ({"searcher": None}, "unknown searcher None"),
        ({"objective": 3}, "unknown objective 3"),
        ({"target": 3}, "unknown target '3'"),
    ],
)
@pytest.mark.parametrize("searcher", ["exhaustive", "random"])
def test_wrong_arguments_are_named(changes: dict[str, object], message: str, searcher: str) -> None:
    arguments = {"problem": SIZES, "target": "mas-edge", "searcher": searcher}
    with pytest.raises(ValueError, match=message):
        hocket.simulate(**arguments | changes)


def test_sizes_may_be_a_list() -> None:
    found = hocket.simulate(list(SIZES), "mas-edge", budget_tasks=BUDGET)
    assert found.problem == simulation.make_problem(*SIZES)


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(TargetError, match="nowhere"):
        hocket.simulate(SIZES, "nowhere")


def test_softmax_can_cost_something_else() -> None:
    machine = load_target("davinci-lite")
    costly = simulation.adapt_machine(machine, vector_cost=128.0)
    assert costly.vector_unit.softmax_lane_cycles == pytest.approx(128)
    # The steps keep their shares: here an exponential costs four times a subtraction.
    unit = costly.vector_unit
    assert unit.exp_lane_cycles / unit.subtract_lane_cycles == pytest.approx(
        machine.vector_unit.exp_lane_cycles / machine.vector_unit.subtract_lane_cycles
    )
    steps = [name for name in vars(unit) if name in simulation._SOFTMAX_STEPS]
    free = dataclasses.replace(machine.vector_unit, **dict.fromkeys(steps, 0.0))
    even = simulation.adapt_machine(dataclasses.replace(machine, vector_unit=free), vector_cost=10)
    assert {getattr(even.vector_unit, name) for name in steps} == {2.0}


def test_memory_can_have_another_size() -> None:
    machine = simulation.adapt_machine(load_target("mas-edge"), on_chip_bytes=12_345)
    assert machine.on_chip_memory.capacity_bytes == 12_345


def test_what_does_not_fit_is_an_answer() -> None:
    with pytest.raises(InfeasibleError) as caught:
        hocket.simulate(SIZES, "mas-edge", on_chip_bytes=64)
    machine = load_target("mas-edge")
    problem = simulation.make_problem(*SIZES)
    question = describe_question(
        problem, machine, dataflow="mas", searcher="random", objective="energy", network="tiny"
    )
    answer = infeasible_to_json(question, caught.value.report)
    assert set(CONTRACT) <= set(answer)
    assert answer["cycles"] is None
    assert any("gap" in line for line in answer["infeasible"])


@pytest.mark.parametrize("command", ["simulate", "search"])
@pytest.mark.parametrize("objective", ["latency", "pareto"])
def test_what_does_not_fit_has_the_keys_of_what_does(command: str, objective: str) -> None:
    arguments = [command, "-t", "mas-edge", "--problem", "2,64,16", "--budget-tasks", "2000"]
    arguments += ["--objective", objective, "--json"]
    fits, not_so = (
        json.loads(CliRunner().invoke(app, [*arguments, *more]).stdout)["results"][0]
        for more in ([], ["--on-chip-bytes", "64"])
    )
    assert list(fits) == list(not_so)
    assert ("front" in fits) == (command == "search" or objective == "pareto")
    asked = ["network", "problem", "target", "vector_cost", "dataflow", "searcher", "objective"]
    assert [fits[key] for key in asked] == [not_so[key] for key in asked]
    figures = [key for key in fits if key not in (*asked, "on_chip_bytes", "infeasible")]
    assert all(not_so[key] is None for key in figures)
    assert not_so["infeasible"]


def test_pareto_has_both_ends() -> None:
    arguments = {"dataflow": "mas", "budget_tasks": 40_000}
    fastest, thriftiest, both = (
        hocket.simulate((4, 128, 32), "mas-edge", objective=name, **arguments)
        for name in ("latency", "energy", "pareto")
    )
    front = both.search.front
    cycles = [estimate.cycles for _, estimate in front]
    joules = [estimate.joules for _, estimate in front]
    assert cycles == sorted(set(cycles))
    assert joules == sorted(set(joules), reverse=True)
    # Half the budget each, which is enough here.
    assert both.estimate == fastest.estimate
    assert joules[-1] <= thriftiest.estimate.joules * 1.002
    assert both.search.num_evaluated > fastest.search.num_evaluated / 2


def test_time_ends_a_search() -> None:
    found = hocket.simulate((8, 256, 64), "mas-edge", budget_seconds=1e-6)
    assert found.search.num_evaluated == 1
    assert not found.search.is_optimal


def test_files_are_written(result: hocket.SimulationResult, tmp_path: Path) -> None:
    result.write_html(tmp_path / "a.html")
    result.write_trace(tmp_path / "a.json")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert result.title in page
    assert "next lever" in page
    assert f"{result.estimate.cycles:,.0f}" in page
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"]


def test_a_picture_is_drawn(result: hocket.SimulationResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    result.write_plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["simulate", "search"])
def test_the_help_lists_all_there_is(command: str) -> None:
    """It is written out, so that ``--help`` loads nothing heavy."""
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for name in (*DATAFLOWS, *SEARCHERS, *OBJECTIVES, "pareto", *NETWORKS):
        assert name in text, name
