"""Programs too long to build, against the same programs built after all."""

from __future__ import annotations

import dataclasses

import pytest

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search import extrapolate
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import estimate_program
from hocket.hwmodels.verify import verify_program


def make_problem(heads: int, length: int, *, is_causal: bool = False) -> AttentionProblem:
    return AttentionProblem(
        1, heads, heads, length, length, 64, 64, DType.FLOAT16, 0.125, is_causal=is_causal
    )


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
    found, window, _, _ = extrapolate.estimate_long(problem, tiling, chosen, machine, bound)
    verify_program(window, machine)
    assert not found.is_simulated
    assert found.cycles == pytest.approx(whole.cycles, rel=0.01)
    assert found.matrix_busy_cycles == pytest.approx(whole.matrix_busy_cycles, rel=0.01)
    assert found.vector_busy_cycles == pytest.approx(whole.vector_busy_cycles, rel=0.01)
    assert found.joules == pytest.approx(whole.joules, rel=0.01)
    # What the first head loads and no other shares is the least regular.
    assert found.dram_bytes == pytest.approx(whole.dram_bytes, rel=0.08)
    assert found.peak_on_chip_bytes == whole.peak_on_chip_bytes


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
