"""Row blocks: each row once, cores with equal shares, and parts of the order as in the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.problems import machines, problems, tilings

from hocket.compiler.attention.schedule import steps
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.schedule.row_blocks import RowBlockOrder, row_blocks
from hocket.compiler.attention.tiling import Split, Tiling
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.machine import HardwareModel

Case = tuple[AttentionProblem, Tiling, HardwareModel, bool]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    problem, machine = draw(problems()), draw(machines())
    tiling = draw(tilings(problem, machine, DATAFLOWS["hocket"]))
    return problem, tiling, machine, draw(st.booleans())


def all_blocks(case: Case, *, tapers: bool = False) -> NDArray[np.int64]:
    problem, tiling, machine, skips_future = case
    return row_blocks(problem, tiling, machine, skips_future=skips_future, tapers=tapers)


@given(cases(), st.booleans())
def test_every_row_of_every_head_is_computed_once_on_each_of_its_keys(
    case: Case, tapers: bool
) -> None:
    problem, _, _, skips_future = case
    matrices = problem.batch * problem.query_heads
    seen = np.zeros((matrices, problem.query_length, problem.kv_length), int)
    for block in all_blocks(case, tapers=tapers):
        heads = slice(block[steps.MATRIX], block[steps.MATRIX] + block[steps.HEADS])
        rows = slice(block[steps.ROW], block[steps.ROW] + block[steps.ROWS])
        seen[heads, rows, block[steps.BEGIN] : block[steps.END]] += 1
    if problem.is_causal and skips_future:
        must = np.tri(problem.query_length, problem.kv_length, dtype=bool)
        assert (seen[:, must] == 1).all()
        assert seen.max() == 1
    else:
        assert (seen == 1).all()


@given(cases())
def test_a_core_has_the_row_blocks_whose_middle_lies_in_its_share_of_the_work(case: Case) -> None:
    if case[1].split is not Split.HEADS:
        return
    blocks, cores = all_blocks(case), case[2].num_cores
    work = blocks[:, steps.HEADS] * blocks[:, steps.ROWS] * blocks[:, steps.END]
    before = np.cumsum(work) - work
    shares = [
        Fraction(int(2 * start + own) * cores, 2 * int(work.sum()))
        for start, own in zip(before, work, strict=True)
    ]
    assert blocks[:, steps.CORE].tolist() == [min(int(share), cores - 1) for share in shares]


@given(cases(), st.integers(0, 30), st.integers(1, 10))
def test_some_turns_are_what_each_core_does_then_in_the_whole(
    case: Case, first: int, count: int
) -> None:
    problem, tiling, machine, skips_future = case
    order = RowBlockOrder(problem, tiling, machine, skips_future=skips_future)
    whole = all_blocks(case)
    turn = np.zeros(len(whole), int)
    for core in range(machine.num_cores):
        mine = whole[:, steps.CORE] == core
        turn[mine] = np.arange(int(mine.sum()))
    assert order.num_turns == turn.max() + 1
    part = order.turns(first, count)
    expected = whole[(turn >= first) & (turn < first + count)]
    same = [column for column in range(steps.NUM_BLOCK_COLUMNS) if column != steps.MAIN]
    np.testing.assert_array_equal(part[:, same], expected[:, same])
    # What is merged into what is told by places among these blocks.
    group = np.unique(expected[:, steps.MAIN], return_inverse=True)[1]
    main = part[:, steps.MAIN]
    assert (np.unique(main, return_inverse=True)[1] == group).all()
    assert (part[main][:, steps.MAIN] == main).all()
