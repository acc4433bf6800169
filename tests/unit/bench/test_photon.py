"""The bench of Photon: what is run next, what is made of it, and the same arm by torch alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import photon
import pytest
from photon import (
    CENTRALISED,
    DILOCO,
    PHOTON,
    Files,
    Level,
    measure,
    next_jobs,
    notes_of,
    summarise,
)
from support.photon import TINY, draw_examples, tiny_backend
from training.photon_arms import Arm, Job, Study, train, training_of
from training.torch_gpt import TorchGpt, distance_from_averaging

from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.shards import TokenShards, write_shards

if TYPE_CHECKING:
    from pathlib import Path

ARMS = (
    Arm(CENTRALISED, is_federated=False, rates=(1e-3, 2e-3), num_seeds=2),
    Arm(PHOTON, rates=(1e-3, 2e-3), num_seeds=2),
    Arm(DILOCO, server="diloco", rates=(1e-3,), outer_rates=(0.3, 0.7)),
    Arm("Photon int8", scheme="int8", like=PHOTON),
)
NAMES = [arm.name for arm in ARMS]
LEVEL = Level(Study(TINY, 4, 2, 4, 3, 1, 8), ARMS)


def row_of(job: Job) -> dict[str, Any]:
    """A run whose loss says which it was: the higher rates are the better ones."""
    is_federated = job.arm != CENTRALISED
    loss = 2.0 + 0.2 * is_federated - 10 * job.rate - 0.1 * job.outer_rate + 0.01 * job.seed
    return {
        "arm": job.arm,
        "learning_rate": job.rate,
        "outer_rate": job.outer_rate,
        "seed": job.seed,
        "tokens": 1_000,
        "steps": 12,
        "exchanges": 3 if is_federated else 12,
        "sent_bytes": 1_000 if is_federated else 4_000,
        "loss": loss,
        "curve": [3.0, loss],
        "cpu_seconds": 4.8,
        "refused": 0,
    }


def test_the_best_of_a_sweep_is_run_with_other_seeds() -> None:
    rows: list[dict[str, Any]] = []
    asked: list[Job] = []
    while jobs := next_jobs(ARMS, rows):
        asked.append(jobs[0])
        rows.append(row_of(jobs[0]))
    assert len(asked) == len(set(asked))
    assert set(asked) == {
        *(Job(name, rate, 0.0, 0) for name in (CENTRALISED, PHOTON) for rate in (1e-3, 2e-3)),
        *(Job(name, 2e-3, 0.0, 1) for name in (CENTRALISED, PHOTON)),
        *(Job(DILOCO, 1e-3, outer, 0) for outer in (0.3, 0.7)),
        Job("Photon int8", 2e-3, 0.0, 0),
    }
    first_int8 = asked.index(Job("Photon int8", 2e-3, 0.0, 0))
    assert first_int8 > max(asked.index(Job(PHOTON, rate, 0.0, 0)) for rate in (1e-3, 2e-3))


def test_rows_are_written_as_they_come_and_not_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "rows.json", []
    files = Files(result=path)

    def run_job(level: Level, job: Job, files: Files) -> dict[str, Any]:
        del level, files
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return row_of(job)

    monkeypatch.setattr(photon, "run_job", run_job)
    with pytest.raises(KeyboardInterrupt):
        measure(LEVEL, NAMES, files, [], 0)
    known = photon.known_rows(LEVEL, path)
    assert [Job.of(row) for row in known] == done
    done.clear()
    monkeypatch.setattr(photon, "run_job", lambda level, job, files: row_of(job))
    assert {row["arm"] for row in measure(LEVEL, [PHOTON], files, [], 0)} == {PHOTON}
    rows = measure(LEVEL, NAMES, files, known, 0)
    assert not next_jobs(ARMS, rows)
    assert json.loads(path.read_text(encoding="utf-8"))["rows"] == rows
    assert len({Job.of(row) for row in rows}) == len(rows)


def test_rows_of_another_study_are_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"question": "another", "rows": []}), encoding="utf-8")
    with pytest.raises(SystemExit, match="another"):
        photon.known_rows(LEVEL, path)
    assert photon.known_rows(LEVEL, tmp_path / "missing.json") == []


def test_a_summary_has_means_ratios_and_times() -> None:
    rows: list[dict[str, Any]] = []
    while jobs := next_jobs(ARMS, rows):
        rows.append(row_of(jobs[0]))
    shown = {row["arm"]: row for row in summarise(LEVEL, rows)}
    central, federated = shown[CENTRALISED], shown[PHOTON]
    assert (federated["learning_rate"], federated["seeds"]) == (2e-3, 2)
    perplexities = [math.exp(2.18), math.exp(2.19)]
    assert federated["perplexity"] == pytest.approx(np.mean(perplexities))
    assert federated["spread"] == pytest.approx(np.std(perplexities, ddof=1))
    assert federated["of_centralised"] == pytest.approx(math.exp(0.2))
    assert federated["fewer_bytes"] == pytest.approx(4)
    assert central["fewer_bytes"] == pytest.approx(1)
    # 12 steps of a tenth of a second, and 8,000 bits, all of which pass the server's link.
    assert federated["minutes_100_mbps"] * 60 == pytest.approx(1.2 + 8_000 / 1e8)
    assert central["minutes_100_mbps"] * 60 == pytest.approx(1.2 + 32_000 / 1e8)
    assert shown[DILOCO]["outer_rate"] == 0.7
    said = " ".join(notes_of(list(shown.values())))
    assert "last loss of DiLoCo" in said
    assert "Photon int8 changes its last perplexity by +0.00%" in said


def test_the_same_arm_by_torch_alone_learns_the_same(tmp_path: Path) -> None:
    """The form for GPUs: attention, products and optimizer are torch's, and all else is ours."""
    tokens = draw_examples(200).inputs["ids"]
    texts = {
        name: ["".join(chr(97 + each) for each in row) for row in tokens[start::2]]
        for start, name in enumerate(("even", "odd"))
    }
    write_shards(
        tmp_path,
        texts,
        lambda text: [ord(each) - 97 for each in text],
        TINY.vocabulary,
        end_of_text=0,
    )
    arm, job = ARMS[1], Job(PHOTON, 2e-3, 0.0, 0)
    found = [
        train(LEVEL.study, arm, job, backend, TokenShards(str(tmp_path)))
        for backend in (tiny_backend(), TorchGpt(TINY, "cpu"))
    ]
    for row in found:
        assert row["tokens"] == 4 * 2 * 4 * 3 * TINY.context
        assert row["refused"] == 0
        assert row["curve"][-1] < row["curve"][0]
    assert found[0]["curve"] == pytest.approx(found[1]["curve"], rel=1e-4)


def test_the_centralised_arm_is_averaging_at_every_step() -> None:
    training = dataclasses.replace(
        training_of(LEVEL.study, ARMS[0], 2e-3), warmup_steps=2, decay_steps=10
    )
    assert training.batch_size == 8
    backend, module = tiny_backend(), Gpt(TINY, 1)
    assert distance_from_averaging(backend, module, training, draw_examples(80), 4) < 1e-3
