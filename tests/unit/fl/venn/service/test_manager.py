"""When devices are free again, and what a refusal leaves as it was."""

from __future__ import annotations

import pytest

from hocket.fl.service.errors import ConflictError, ForbiddenError, InvalidError, RefusedError
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.service.answers import Assignments, Cohort, Recorded, Status
from hocket.fl.venn.service.manager import KEPT_JOBS, Caller, ResourceManager
from hocket.fl.venn.service.operations import (
    AskDevices,
    CheckIn,
    CheckIns,
    EndRound,
    ExplainDevice,
    ExplainJobs,
    Finish,
    ListDevices,
    Operation,
    Register,
    Result,
    Results,
    Tick,
)

ME, OTHER, OPS = Caller("me"), Caller("other"), Caller("ops", is_operator=True)


class Told:
    """A manager and the time, with short questions."""

    def __init__(self) -> None:
        self.manager, self.time = ResourceManager(POLICIES["venn"]), 0.0
        self.ask(Register(job="a"))

    def ask(self, operation: Operation, caller: Caller = ME) -> object:
        return self.manager.perform(self.time, caller, operation)

    def begin(self, count: int, quorum: float = 1.0) -> None:
        self.ask(
            AskDevices(
                job="a", count=count, quorum=quorum, selection_seconds=100.0, deadline_seconds=10.0
            )
        )

    def check_in(self, *names: str) -> list[int | None]:
        found = self.ask(CheckIns(devices=tuple(CheckIn(device=name) for name in names)))
        assert isinstance(found, Assignments)
        return [each and each.assignment for each in found.assignments]

    def report(self, number: int, *, is_success: bool = True) -> bool:
        found = self.ask(Results(results=(Result(assignment=number, is_success=is_success),)))
        assert isinstance(found, Recorded)
        return found.is_recorded[0]

    def at_work(self) -> list[str]:
        found = self.ask(ListDevices(job="a"))
        assert isinstance(found, Cohort)
        return [each.device for each in found.assignments]

    def phase(self) -> str:
        found = self.ask(ExplainJobs(job="a"))
        assert isinstance(found, Status)
        return found.jobs[0].phase


def test_devices_are_free_when_the_deadline_has_passed() -> None:
    told = Told()
    told.begin(2)
    assert told.check_in("d", "e", "f") == [1, 2, None]
    assert told.manager.next_due == 10.0
    told.time = 9.9
    assert told.check_in("d") == [1]
    told.time = 10.0
    assert told.phase() == "failed"
    assert told.at_work() == []
    assert not told.report(1)
    told.begin(1)
    assert told.check_in("e", "d") == [3, None]


@pytest.mark.parametrize("way", ["tick", "check-in", "list", "result", "explain"])
def test_whoever_asks_first_after_a_deadline_finds_devices_free(way: str) -> None:
    told = Told()
    told.begin(1)
    told.check_in("d")
    told.time = 11.0
    asked = {
        "tick": lambda: told.ask(Tick()),
        "check-in": lambda: told.check_in("d"),
        "list": told.at_work,
        "result": lambda: told.report(1),
        "explain": lambda: told.ask(ExplainDevice(device=CheckIn(device="d"))),
    }
    asked[way]()
    assert told.manager.num_at_work == 0


def test_devices_of_a_complete_round_that_nobody_ends_are_free_in_the_end() -> None:
    told = Told()
    told.begin(2, quorum=0.5)
    told.check_in("d", "e")
    told.report(1)
    assert told.phase() == "complete"
    told.time = 109.0
    assert told.at_work() == ["e"], "it may still report"
    assert told.manager.next_due == 110.0
    told.time = 110.0
    assert told.check_in("e") == [None]


def test_a_lost_device_is_replaced_while_devices_are_selected() -> None:
    told = Told()
    told.begin(2)
    told.check_in("d")
    assert told.report(1, is_success=False)
    assert told.check_in("e", "f", "g") == [2, 3, None]
    assert told.report(2, is_success=False)
    assert told.phase() == "failed", "all were wanted, and the selection is over"
    assert told.at_work() == []


def test_a_request_that_cannot_be_met_leaves_the_round_as_it_was() -> None:
    told = Told()
    told.begin(1)
    told.check_in("first")
    for number in range(1100):
        told.time += 1.0
        told.check_in(f"d{number}")
    told.begin(1)
    told.check_in("second")
    with pytest.raises(InvalidError, match="cannot be had"):
        told.ask(AskDevices(job="a", count=10_000, selection_seconds=100.0))
    assert told.at_work() == ["second"]
    assert told.phase() == "reporting"


def test_jobs_are_their_owners() -> None:
    told = Told()
    told.begin(1)
    operations: list[Operation] = [
        *(Register(job="a"), AskDevices(job="a", count=1), EndRound(job="a"), Finish(job="a")),
        *(ListDevices(job="a"), ExplainJobs(job="a")),
    ]
    for operation in operations:
        with pytest.raises(ForbiddenError, match="'a' is another's"):
            told.ask(operation, OTHER)
    for operation in operations:
        told.ask(operation, OPS) if not isinstance(operation, Finish) else None
    told.ask(Finish(job="a"), OPS)


def test_jobs_that_are_over_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    for number in range(KEPT_JOBS + 5):
        told.ask(Register(job=f"j{number}"))
        told.ask(Finish(job=f"j{number}"))
    found = told.ask(ExplainJobs())
    assert isinstance(found, Status)
    assert [each.job for each in found.jobs][:2] == ["j5", "j6"]
    assert len(found.jobs) == KEPT_JOBS + 1
    told.ask(Register(job="j6"))
    assert sum(each.job == "j6" for each in told.ask(ExplainJobs()).jobs) == 1
    monkeypatch.setattr("hocket.fl.venn.service.manager.MAX_JOBS", 2)
    with pytest.raises(ConflictError, match="2 jobs already"):
        told.ask(Register(job="one-more"))
    with pytest.raises(RefusedError):
        told.ask(Finish(job="j7"))
