"""Programs too long to build, against the same programs built after all."""

from __future__ import annotations

import dataclasses

import pytest

from hocket.compiler.attention.bounds import compulsory_bytes, lower_bounds
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search import extrapolate
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import MAX_EXTENT, AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import estimate_program
from hocket.hwmodels.verify import verify_program


def make_problem(heads: int, length: int, *, is_causal: bool = False) -> AttentionProblem:
    return AttentionProblem(
        1, heads, heads, length, length, 64, 64, DType.FLOAT16, 0.125, is_causal=is_causal
    )


def make_longest() -> AttentionProblem:
    """As many rows and keys as there may be, narrow enough for outer memory."""
    length = MAX_EXTENT
    return AttentionProblem(1, 1, 1, length, length, 16, 16, DType.FLOAT16, 0.25)


def make_decode(batch: int, heads: int, length: int) -> AttentionProblem:
    """One query row for each of many heads, eight of which share keys and values."""
    return AttentionProblem(batch, 8 * heads, heads, 1, length, 64, 64, DType.FLOAT16, 0.125)


@pytest.mark.parametrize(
    ("dataflow", "problem", "tiling"),
    [
        ("mas", make_problem(8, 2048), Tiling(64, 256, 16)),
        ("mas", make_problem(8, 2048), Tiling(64, 256, 4)),
        ("flat", make_problem(2, 4096), Tiling(16, 512, 3, live_blocks=1)),
        (
            "hocket",
            make_problem(8, 2048),
            Tiling(64, 256, 8, softmax=Softmax.ONLINE, split=Split.ROWS),
        ),
        (
            "hocket",
            make_problem(8, 2048, is_causal=True),
            Tiling(64, 256, 8, softmax=Softmax.ONLINE, split=Split.ROWS),
        ),
        # Heads shorter than a window: many stacked, of one row block each, or of a few.
        ("hocket", make_decode(16, 4, 128), Tiling(1, 128, 16, heads=8, softmax=Softmax.DEFERRED)),
        ("hocket", make_decode(16, 8, 256), Tiling(1, 64, 32, heads=8, split=Split.ROWS)),
        ("mas", make_problem(64, 256), Tiling(64, 256, 8)),
        ("hocket", make_problem(64, 256, is_causal=True), Tiling(64, 64, 16)),
        ("hocket", make_problem(64, 256), Tiling(32, 256, 4, split=Split.ROWS, fill_columns=64)),
    ],
)
def test_windows_add_up_to_what_the_whole_program_takes(
    monkeypatch: pytest.MonkeyPatch, dataflow: str, problem: AttentionProblem, tiling: Tiling
) -> None:
    monkeypatch.setattr(extrapolate, "WINDOW_TASKS", 3000)
    machine = load_target("mas-edge")
    bound = lower_bounds(problem, machine).cycles
    chosen = DATAFLOWS[dataflow]
    whole, _ = estimate_program(build_program(problem, tiling, chosen, machine), machine, bound)
    space = TilingSpace(problem, machine, chosen)
    least = closed_forms(space, layout.TilingArrays.of([tiling])).of(0)
    found, window, _, _ = extrapolate.estimate_long(space, tiling, least)
    verify_program(window, machine)
    assert not found.is_simulated
    assert found.cycles == pytest.approx(whole.cycles, rel=0.02)
    # How much there is to compute is no guess.
    assert found.matrix_busy_cycles == pytest.approx(whole.matrix_busy_cycles)
    assert found.vector_busy_cycles == pytest.approx(whole.vector_busy_cycles)
    assert found.compute_joules == pytest.approx(whole.compute_joules)
    assert found.joules == pytest.approx(whole.joules, rel=0.01)
    # What the first head loads and no other shares is the least regular.
    assert found.dram_bytes == pytest.approx(whole.dram_bytes, rel=0.08)
    assert found.peak_on_chip_bytes == whole.peak_on_chip_bytes


def test_nothing_that_is_extrapolated_falls_below_what_is_proved() -> None:
    """A pool of keys and values larger than the heads that windows look at, and a wave front."""
    machine = load_target("ethos-u85-512")
    problem = make_problem(1024, 1024)
    result = lower_attention(problem, machine)
    best = result.best
    assert not best.estimate.is_simulated
    demand = layout.demand(best.tiling, problem, DATAFLOWS["hocket"], machine)
    assert best.estimate.peak_on_chip_bytes == sum(demand.values())
    assert best.estimate.dram_bytes >= compulsory_bytes(problem, machine)


@pytest.mark.parametrize("heads", [1, 64])
def test_no_program_is_longer_than_programs_may_be(heads: int) -> None:
    """Stacked heads have loads, stores and softmaxes of their own."""
    machine = load_target("mas-edge")
    problem = dataclasses.replace(make_decode(16_000, 1, 64), query_heads=64)
    space = TilingSpace(problem, machine, DATAFLOWS["hocket"])
    stacked = Tiling(1, 64, 2, heads=heads)
    forms = closed_forms(space, layout.TilingArrays.of([stacked]))
    assert forms.program_tasks[0] > 16_000 * 64 * 2
    result = lower_attention(problem, machine)
    assert not result.best.estimate.is_simulated
    assert result.num_tasks <= Budget().tasks + extrapolate.MAX_TASKS
    assert result.best.program.schedule.num_tasks <= extrapolate.MAX_TASKS


def test_two_live_rows_reach_as_far_as_memory_does_and_online_softmax_beyond() -> None:
    """Two rows of two bytes a score in 5 MB: 1.25 million tokens, less what else is on chip."""
    machine = load_target("mas-edge")
    limit = machine.on_chip_memory.capacity_bytes // 2 // machine.element_bytes
    row = dataclasses.replace(make_problem(1, limit - 25_000), query_length=4)
    result = lower_attention(row, machine, dataflow="mas", verify=True)
    assert result.best.tiling.live_blocks == 2
    assert result.best.estimate.peak_on_chip_bytes <= machine.on_chip_memory.capacity_bytes
    beyond = dataclasses.replace(row, kv_length=limit + 1)
    with pytest.raises(InfeasibleError, match="online softmax"):
        lower_attention(beyond, machine, dataflow="mas")
    assert lower_attention(beyond, machine).best.tiling.softmax is Softmax.ONLINE


def test_a_million_tokens_stay_close_to_the_bound() -> None:
    result = lower_attention(make_problem(1, 1_000_000), load_target("mas-edge"))
    assert not result.best.estimate.is_simulated
    assert result.best.estimate.of_bound < 1.05


def test_the_longest_problem_there_is_has_an_answer() -> None:
    result = lower_attention(make_longest(), load_target("mas-edge"))
    assert result.best.estimate.of_bound < 1.05
    assert result.num_tasks <= 2 * Budget().tasks


def test_what_is_too_long_to_simulate_is_said_to_be() -> None:
    """Tiles as small as this memory asks for make millions of tasks of a single row."""
    base = load_target("mas-edge")
    memory = dataclasses.replace(base.on_chip_memory, capacity_bytes=1000)
    machine = dataclasses.replace(base, on_chip_memory=memory)
    for searcher in SEARCHERS:
        with pytest.raises(InfeasibleError, match="too long to simulate") as caught:
            lower_attention(make_longest(), machine, searcher=searcher)
        assert [line.split(":")[0] for line in caught.value.report] == [
            "resource", "demand", "bound", "gap", "levers",
        ]  # fmt: skip


@pytest.mark.parametrize(("dataflow", "length"), [("hocket", 200_000), ("layerwise", 8192)])
def test_tensors_that_outer_memory_does_not_hold_do_not_fit(dataflow: str, length: int) -> None:
    machine = load_target("mas-edge")
    problem = make_problem(64, length)
    with pytest.raises(InfeasibleError, match="does not fit mas-edge") as caught:
        lower_attention(problem, machine, dataflow=dataflow)
    report = "\n".join(caught.value.report)
    assert f"resource: {machine.outer_memory.name} of mas-edge" in report
    assert f"bound: {machine.outer_memory.capacity_bytes} bytes" in report
    assert ("scores" in report) == (dataflow == "layerwise")
    tensor = 64 * length * 64 * machine.element_bytes
    assert f"query {tensor} + key {tensor} + value {tensor}" in report
    half = dataclasses.replace(problem, query_heads=16, kv_heads=16)
    assert lower_attention(half, machine, dataflow=dataflow).best.estimate.cycles > 0


def test_on_many_cores_programs_are_as_short_as_can_be_verified() -> None:
    machine = dataclasses.replace(load_target("mas-edge"), num_cores=512)
    tensors = dataclasses.replace(machine.outer_memory, capacity_bytes=1 << 40)
    machine = dataclasses.replace(machine, outer_memory=tensors)
    result = lower_attention(make_problem(1024, 512), machine, dataflow="mas", verify=True)
    assert result.best.program.schedule.num_tasks <= extrapolate.most_tasks(machine) < 150_000
