"""The simulator: the reference's figures in its own mode, and laws that hold in ours."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.event_loop import run_events
from hocket.fl.venn.policies import POLICIES, Sharing
from hocket.fl.venn.simulator import OUR_RULES, PUBLISHED_RULES, Outcome, RoundRules, simulate
from hocket.fl.venn.traces import Trace, load_trace, phone_models, surrogate_trace
from hocket.fl.venn.workloads import CLASSES, Job, workload_named, workload_names

if TYPE_CHECKING:
    from pathlib import Path

OURS = [name for name, policy in POLICIES.items() if policy.sharing != Sharing.PUBLISHED]


@cache
def busy_trace() -> Trace:
    return surrogate_trace()


@cache
def small_trace() -> Trace:
    return surrogate_trace(num_clients=2000)


def few_jobs(num_jobs: int = 6) -> tuple[Job, ...]:
    return tuple(Job(3600.0 + 60 * n, 5 + 3 * n, 4, 600.0, n % 4) for n in range(num_jobs))


@pytest.mark.parametrize(
    ("policy", "seconds"), [("fifo", 508_260), ("srsf", 409_276), ("published", 393_566)]
)
def test_the_reference_simulators_figures_come_out(policy: str, seconds: float) -> None:
    """Even, a tenth of the rounds, 1.4 times the check-ins, seed 10: within 2 %."""
    jobs = workload_named("even").draw(round_share=0.1)
    found = simulate(busy_trace(), jobs, POLICIES[policy], rules=PUBLISHED_RULES, seed=10)
    assert found.completed_jobs == 50
    assert found.mean_seconds == pytest.approx(seconds, rel=0.02)


def test_only_the_published_planner_hands_out_ineligible_devices() -> None:
    jobs = workload_named("even").draw(round_share=0.01)
    runs = {
        name: simulate(busy_trace(), jobs, POLICIES[name], rules=PUBLISHED_RULES)
        for name in ("published", "venn")
    }
    assert runs["published"].num_ineligible > 0
    assert runs["venn"].num_ineligible == 0


@pytest.mark.parametrize("name", OURS)
def test_devices_are_accounted_for_one_by_one(name: str) -> None:
    found = simulate(small_trace(), few_jobs(), POLICIES[name])
    assert found.completed_jobs == 6
    assert found.num_ineligible == 0
    assert found.rounds_done.tolist() == [4] * 6
    assert found.devices_used.sum() == found.by_hour[:, 1].sum() <= found.num_checkins
    assert found.by_hour[:, 0].sum() == found.num_checkins
    spent = found.devices_lost + found.results_wasted + found.results_late
    assert np.all(spent <= found.devices_used)
    # A completed round has had a quorum's answers.
    quorums = np.ceil([job.demand * 0.8 for job in few_jobs()]) * 4
    assert np.all(found.devices_used - spent >= quorums)
    assert 0 < found.waste < 1


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(OURS), st.integers(0, 5))
def test_the_same_seed_gives_the_same_schedule(name: str, seed: int) -> None:
    runs: list[Outcome] = [
        simulate(small_trace(), few_jobs(), POLICIES[name], seed=seed) for _ in range(2)
    ]
    assert np.array_equal(runs[0].completion_seconds, runs[1].completion_seconds)
    assert np.array_equal(runs[0].devices_used, runs[1].devices_used)


def test_a_lonely_job_takes_as_long_as_arithmetic_says() -> None:
    """A check-in each ten seconds, tasks of 30 s, 5 devices of which 4 must answer."""
    starts = np.arange(0.0, 10_000.0, 10.0)
    everything = np.ones(starts.size)
    trace = Trace(
        starts,
        starts + 1000.0,
        30.0 * everything,
        np.zeros(starts.size, np.int32),
        np.ones((1, 1), bool),
        10_000.0,
        "made",
    )
    rules = RoundRules(dispatch_seconds=0.0)
    found = simulate(trace, [Job(5.0, 5, 2, 600.0, 0)], POLICIES["fifo"], rules=rules)
    # Devices at 10 to 50, of which the fourth answers at 70, just after a check-in; then at 80 to
    # 120, the fourth answers at 140.
    assert found.completion_seconds.tolist() == [140.0 - 5.0]
    assert found.devices_used.tolist() == [10]
    assert found.results_late.tolist() == [1], "after the last round nobody counts"


def test_selection_has_a_timeout_of_its_own() -> None:
    jobs = [Job(3600.0, 5000, 1, 300.0, 0)]
    trace = small_trace()
    patient = simulate(trace, jobs, POLICIES["fifo"], rules=RoundRules(num_days=5))
    hasty = simulate(
        trace, jobs, POLICIES["fifo"], rules=RoundRules(num_days=5, selection_timeout_seconds=600)
    )
    assert patient.rounds_aborted[0] <= 1
    assert hasty.completed_jobs == 0
    assert hasty.rounds_aborted[0] > 500
    assert np.isnan(hasty.mean_seconds)


def test_whole_numbers_do_not_have_the_loop_compiled_anew() -> None:
    rules = RoundRules(quorum=1, selection_timeout_seconds=600, dispatch_seconds=2, num_days=1)
    jobs = [Job(3600, 5, 1, 600, 0)]
    trace = replace(small_trace(), period_seconds=int(small_trace().period_seconds) + 1)
    simulate(small_trace(), few_jobs(), POLICIES["fifo"])
    simulate(trace, jobs, POLICIES["fifo"], rules=rules)
    assert len(run_events.signatures) == 1


def test_our_policy_beats_intersections_alone() -> None:
    jobs = workload_named("low").draw(round_share=0.05)
    ours, order, venn = (
        simulate(busy_trace(), jobs, POLICIES[name]) for name in ("foresight", "lookahead", "venn")
    )
    assert venn.mean_seconds / ours.mean_seconds > 1.3
    assert venn.mean_seconds > order.mean_seconds > ours.mean_seconds, "each part adds to it"
    assert ours.fair_share >= venn.fair_share


def test_no_round_waits_much_longer_than_its_policys_patience() -> None:
    """Small jobs come first for ever, but for a bound."""
    small = [Job(3600.0 + 600 * n, 20, 40, 300.0, 0) for n in range(12)]
    jobs = [Job(3600.0, 400, 4, 600.0, 0), *small]
    patient = replace(POLICIES["srsf"], patience_seconds=3600.0)
    starved, bounded = (
        simulate(small_trace(), jobs, each, rules=RoundRules(num_days=30))
        for each in (POLICIES["srsf"], patient)
    )
    assert starved.longest_wait_seconds[0] > 4 * 3600
    # An hour, and what it takes to get 400 devices before all others: 4 a minute or so.
    assert bounded.longest_wait_seconds[0] < 3600 + 2.5 * 400 / 4 * 60
    assert bounded.longest_wait_seconds[0] < starved.longest_wait_seconds[0]


def test_the_evaluations_jobs_are_drawn() -> None:
    jobs = workload_named("even").draw()
    assert [job.group for job in jobs] == [number % 4 for number in range(50)]
    assert sum(job.demand for job in jobs) / 50 == pytest.approx(402, abs=0.5)
    assert sum(job.demand * job.rounds for job in jobs) == pytest.approx(29.9e6, rel=0.005)
    assert len(workload_names()) == 9
    heavy = workload_named("mem_heavy").draw(400)
    share = sum(job.group == CLASSES.index("memory_rich") for job in heavy) / 400
    assert share == pytest.approx(0.7, abs=0.07)


def test_phone_models_are_of_five_types() -> None:
    models, eligible = phone_models()
    assert sorted(np.bincount(models).tolist()) == [35, 78, 124, 305, 417]
    assert (eligible @ np.bincount(models)).tolist() == [924, 495, 541, 417]


def test_the_surrogate_is_as_busy_as_it_says() -> None:
    assert small_trace().starts.size == pytest.approx(1.4 * 1_524_245 * 2000 / 107_749, rel=0.03)


def test_files_of_a_user_are_read(tmp_path: Path) -> None:
    sessions, capacities = tmp_path / "sessions.csv", tmp_path / "client_device_capacity"
    sessions.write_text("ID,start,end\n1,50,60\n2,10,40\n")
    speeds = {1: {"computation": 78.0, "communication": 13736.0}}
    capacities.write_bytes(pickle.dumps(speeds))
    trace = load_trace(sessions, capacities)
    assert trace.starts.tolist() == [10, 50]
    assert trace.ends.tolist() == [120, 140]
    assert trace.task_seconds.tolist() == [50, 50]
    behaviour = tmp_path / "client_behave_trace"
    behaviour.write_bytes(pickle.dumps({1: {"active": [10, 50], "inactive": [40, 60]}}))
    assert load_trace(behaviour, capacities).ends.tolist() == [120, 140]


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def test_files_that_could_run_code_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap, sessions = tmp_path / "trap", tmp_path / "sessions.csv"
    sessions.write_text("start,end\n1,2\n")
    for content in (pickle.dumps(_Trap()), b"", pickle.dumps([1])):
        trap.write_bytes(content)
        with pytest.raises(ConfigError, match="trap"):
            load_trace(sessions, trap)
    assert capsys.readouterr().out == ""
    sessions.write_text("when,end\n1,2\n")
    with pytest.raises(ConfigError, match="want the columns start, end"):
        load_trace(sessions, trap)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="no workload 'odd'"):
        workload_named("odd")
    with pytest.raises(ConfigError, match="by arrival"):
        simulate(small_trace(), few_jobs()[::-1], POLICIES["fifo"])
    with pytest.raises(ConfigError, match="published rules"):
        simulate(small_trace(), few_jobs(), POLICIES["published"], rules=OUR_RULES)
    with pytest.raises(ConfigError, match="quorum"):
        RoundRules(quorum=1.5)
