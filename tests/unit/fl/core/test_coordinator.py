"""The round loop: what it makes of replies, what it keeps, and that it goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.federation import Blobs, Clients, SoftmaxRegression, StandingClock

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.observers import JsonLines
from hocket.fl.core.store import FolderStore, MemoryStore
from hocket.fl.core.types import RoundReport
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.strategies.averaging import FederatedAveraging, fedyogi

TRAINING = LocalTraining(epochs=1, batch_size=4, learning_rate=0.3)


def coordinator(clients: Clients | None = None, **parts: Any) -> Coordinator:
    made = {
        "plan": Plan("test", num_rounds=4, seed=11),
        "strategy": FederatedAveraging(training=TRAINING, fraction_train=0.5),
        "engine": InProcessEngine(clients or Clients(), StandingClock()),
        "scheduler": FifoScheduler(),
        "store": MemoryStore(),
        "clock": StandingClock(),
    }
    return Coordinator(**{**made, **parts})


def run(federation: Coordinator) -> Any:
    return federation.run(federation.begin(SoftmaxRegression().parameters()))


def test_a_round_is_the_mean_of_what_clients_make_of_it() -> None:
    federation = coordinator(
        plan=Plan("test", num_rounds=1, seed=11), strategy=FederatedAveraging(training=TRAINING)
    )
    start = SoftmaxRegression().parameters()
    found = federation.run(federation.begin(start)).state.parameters
    state = federation.strategy.initialize(start)
    tasks = federation.strategy.configure(state, 1, federation.engine.devices(), 11, "train")
    client = Clients()()
    updates = [client.run(task, start) for task in tasks]
    weights = np.array([len(Blobs().load(name)) for name in Blobs().device_ids()])
    for name, array in found.items():
        stacked = np.stack([update.parameters[name] for update in updates])
        wanted = np.average(stacked, axis=0, weights=weights)
        np.testing.assert_allclose(array, wanted, rtol=1e-12)


def test_it_learns() -> None:
    evaluated = SoftmaxRegression()

    def evaluate(parameters: Any) -> Mapping[str, float]:
        evaluated.load_parameters(parameters)
        return evaluated.evaluate(Blobs().held_out()).metrics

    federation = coordinator(evaluate=evaluate, plan=Plan("test", num_rounds=12))
    start = evaluate(SoftmaxRegression().parameters())
    end = run(federation).reports[-1].evaluate_metrics
    assert start["accuracy"] < 0.7
    assert end["server_accuracy"] > 0.85


def test_rounds_draw_other_devices_and_the_seed_says_which() -> None:
    drawn = []
    for seed in (1, 1, 2):
        watched: list[list[str]] = []
        federation = coordinator(
            plan=Plan("test", num_rounds=8, seed=seed), observers=[Watcher(watched)]
        )
        run(federation)
        drawn.append(watched)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(each)) == 3 for each in drawn[0])
    assert len({tuple(each) for each in drawn[0]}) > 3


def test_without_a_quorum_the_model_stays_and_the_report_says_so() -> None:
    wrong = {f"device-{n:02d}:2": "raise" for n in range(6)}
    wrong |= {"device-00:3": "nan", "device-01:3": "shape"}
    federation = coordinator(
        Clients(wrong=wrong),
        strategy=FederatedAveraging(training=TRAINING, fraction_needed=0.6),
    )
    reports = run(federation).reports
    assert [report.has_quorum for report in reports] == [True, False, True, True]
    assert reports[1].digest == reports[0].digest != reports[2].digest
    assert reports[1].num_failures == 6
    assert "0 of 6 updates came, 4 are needed" in reports[1].failures
    assert reports[2].num_updates == 4
    assert "device 'device-00': array 'bias' holds numbers that are not finite" in " ".join(
        reports[2].failures
    )
    assert "want float64 of [3], got float64 of [4]" in " ".join(reports[2].failures)


def test_devices_that_lack_what_is_asked_for_are_not_asked() -> None:
    attributes = {"device-02": {"memory_bytes": 4e9}, "device-05": {"memory_bytes": 1e9}}
    watched: list[list[str]] = []
    federation = coordinator(
        engine=InProcessEngine(Clients(), StandingClock(), attributes),
        strategy=FederatedAveraging(training=TRAINING, minimum={"memory_bytes": 2e9}),
        observers=[Watcher(watched)],
    )
    run(federation)
    assert watched == [["device-02"]] * 4


@pytest.mark.parametrize("strategy", [FederatedAveraging(training=TRAINING), fedyogi()])
def test_a_resumed_federation_ends_as_if_it_had_never_stopped(
    strategy: FederatedAveraging, tmp_path: Path
) -> None:
    whole = run(coordinator(strategy=strategy))
    parts = coordinator(strategy=strategy, store=FolderStore(tmp_path))
    progress = parts.run_round(parts.run_round(parts.begin(SoftmaxRegression().parameters())))
    again = coordinator(strategy=strategy, store=FolderStore(tmp_path))
    resumed = again.resume()
    assert (resumed.round, resumed.digest) == (2, progress.digest)
    end = again.run(resumed)
    assert end.digest == whole.digest
    assert [report.digest for report in end.reports] == [r.digest for r in whole.reports]


def test_what_was_made_otherwise_is_not_resumed() -> None:
    store = MemoryStore()
    with pytest.raises(FederationError, match="nothing to resume"):
        coordinator(store=store).resume()
    first = coordinator(store=store)
    first.begin(SoftmaxRegression().parameters())
    with pytest.raises(FederationError, match="other settings, data or model"):
        coordinator(store=store, plan=replace(first.plan, fingerprint="other")).resume()


def test_only_the_last_states_are_kept() -> None:
    store = MemoryStore()
    run(coordinator(store=store, plan=Plan("test", num_rounds=5, keep_states=2)))
    assert [key.round for key in store.keys() if key.kind == "state"] == [4, 5]  # noqa: SIM118


@pytest.mark.parametrize(
    "wrong", [{"num_rounds": 0}, {"evaluate_every": 0}, {"keep_states": 0}, {"timeout_seconds": 0}]
)
def test_plans_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Plan("test", **{"num_rounds": 1, **wrong})


def test_lines_of_json_tell_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "metrics.jsonl"
    federation = coordinator(observers=[JsonLines(path)])
    progress = run(federation)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert [line["digest"] for line in lines] == [r.digest for r in progress.reports]
    JsonLines(path, progress.reports[:2])
    assert len(path.read_text().splitlines()) == 2


@settings(max_examples=5, deadline=None)
@given(delay=st.floats(0.0, 0.8))
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    delay: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("run_slowly.py")
    command = [sys.executable, str(script), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    again = coordinator(store=FolderStore(folder), plan=Plan("test", num_rounds=6, seed=11))
    whole = run(coordinator(plan=Plan("test", num_rounds=6, seed=11)))
    end = again.run(again.resume())
    assert end.digest == whole.digest
    assert [report.digest for report in end.reports] == [r.digest for r in whole.reports]


class Watcher:
    """Notes which devices were asked."""

    def __init__(self, watched: list[list[str]]) -> None:
        self._watched = watched

    def started(self, round_number: int, tasks: Any) -> None:
        self._watched.append([task.device_id for task in tasks])

    def replied(self, reply: Any) -> None:
        pass

    def finished(self, report: RoundReport) -> None:
        pass
