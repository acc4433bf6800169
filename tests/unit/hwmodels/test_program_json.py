"""Programs from strangers: whatever the numbers say, there is an answer or our own error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_programs import heads, make_machine, make_program

from hocket.hwmodels import program_json
from hocket.hwmodels.columns import CORE, NUM_COLUMNS
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.program_json import program_from_json, program_to_json
from hocket.hwmodels.verify import verify_program

MACHINE = make_machine()
GOOD = program_to_json(make_program(heads(0, 1)))
NUM_TASKS = len(GOOD["num_waits"])


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    fields = copy.deepcopy(GOOD)
    change(fields)
    return fields


def load(fields: object) -> None:
    verify_program(program_from_json(fields), MACHINE)


def test_the_program_that_all_tests_change_is_good() -> None:
    load(GOOD)


def test_numbers_of_waits_whose_sum_wraps_are_refused() -> None:
    """Their sum in 64 bits is that of the waits there are; read on, it leads out of memory."""
    rep = (1 << 16) // NUM_TASKS + 2
    counts = [(1 << 48) - 1] * (1 << 16)
    counts.append((1 << 64) - sum(counts))
    counts += [0] * (rep * NUM_TASKS - len(counts))
    assert sum(counts) == 1 << 64
    fields = changed(lambda each: each.update(num_waits=counts, waits=[]))
    fields["tasks"] = [column * rep for column in GOOD["tasks"]]
    with pytest.raises(ProgramError, match="num_waits"):
        load(fields)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(1 << 32, 1 << 32), (1 << 47, 1 << 16), (1 << 31, 1 << 31), (2**31 - 1, 2**31 - 1)],
)
def test_a_buffer_larger_than_its_place_is_found_whatever_its_size(rows: int, columns: int) -> None:
    fields = changed(lambda each: each["buffers"].__setitem__(0, [0, rows, columns]))
    with pytest.raises(ProgramError, match=r"larger than its placement|out of range"):
        load(fields)


@pytest.mark.parametrize("place", [[(1 << 48) - 64, 512], [0, (1 << 48) - 1], [1 << 62, 1 << 62]])
def test_a_place_outside_memory_is_found_whatever_its_size(place: list[int]) -> None:
    fields = changed(lambda each: each["places"].__setitem__(0, place))
    with pytest.raises(ProgramError, match=r"ends past|out of range"):
        load(fields)


@pytest.mark.parametrize("name", ["scale", "masked_value"])
@pytest.mark.parametrize("value", [float("nan"), "nan", 10**400, True, None, "1.0", [1.0]])
def test_softmax_arguments_that_are_no_numbers_are_refused(name: str, value: object) -> None:
    fields = changed(lambda each: each["softmax"].__setitem__(name, value))
    with pytest.raises(ProgramError, match=name):
        load(fields)


def test_an_infinite_scale_is_refused_and_an_infinite_masked_value_is_not() -> None:
    with pytest.raises(ProgramError, match="scale"):
        load(changed(lambda each: each["softmax"].update(scale=float("inf"))))
    load(changed(lambda each: each["softmax"].update(masked_value="-inf")))


def test_more_tasks_than_are_read_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program(heads(0, 1))
    monkeypatch.setattr(program_json, "MAX_TASKS", NUM_TASKS)
    assert program_from_json(program_to_json(program)) == program
    monkeypatch.setattr(program_json, "MAX_TASKS", NUM_TASKS - 1)
    with pytest.raises(ProgramError, match="too many"):
        program_to_json(program)


def test_many_tasks_on_many_cores_are_refused_before_memory_is_taken() -> None:
    """What is certain to come before what takes a number for each task and stream."""
    rep = (1 << 20) // NUM_TASKS
    fields = changed(lambda each: each.update(waits=[], num_waits=[0] * (rep * NUM_TASKS)))
    fields["tasks"] = [column * rep for column in GOOD["tasks"]]
    fields["tasks"][CORE] = [task % 1024 for task in range(rep * NUM_TASKS)]
    program = program_from_json(fields)
    with pytest.raises(ProgramError, match="too many tasks for so many cores"):
        verify_program(program, make_machine(num_cores=1024))


NUMBERS = st.one_of(
    st.integers(-2, NUM_TASKS + 1),
    st.sampled_from([1 << power for power in (15, 16, 30, 31, 32, 47, 48, 62, 63, 64)]),
    st.integers(-(1 << 65), 1 << 65),
    st.just(True),
    st.floats(),
    st.none(),
)


@given(st.data())
def test_no_single_number_can_do_more_than_raise_our_own_error(data: st.DataObject) -> None:
    fields = copy.deepcopy(GOOD)
    key = data.draw(st.sampled_from(["tasks", "num_waits", "waits", "buffers", "places"]))
    rows = fields[key]
    if isinstance(rows[0], list):
        rows = rows[data.draw(st.integers(0, len(rows) - 1))]
    rows[data.draw(st.integers(0, len(rows) - 1))] = data.draw(NUMBERS)
    try:
        load(fields)
    except ProgramError:
        return
    # What is believed can be written, and read again.
    program = program_from_json(fields)
    assert program_from_json(json.loads(json.dumps(program_to_json(program)))) == program


@pytest.mark.parametrize("key", sorted(GOOD))
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [[]], [["x"]]])
def test_a_part_of_another_kind_is_refused_with_our_own_error(key: str, value: object) -> None:
    assert len(GOOD["tasks"]) == NUM_COLUMNS
    with pytest.raises(ProgramError):
        load(changed(lambda each: each.__setitem__(key, value)))
