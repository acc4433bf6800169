"""``hocket fleet`` from the outside: a rehearsal, what it leaves, how it goes on after SIGKILL."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from support.browser import find_browser, open_page
from support.pages import NASTY, Read
from typer.testing import CliRunner, Result

from hocket import InferenceSession, cli
from hocket.fl.backends.inference import as_inference_artifact
from hocket.fl.core.store import Key
from hocket.fleet.report import read_fleet, read_module
from hocket.report.fleet_report import fleet_report
from hocket.runtime.artifact import parse_artifact
from hocket.store_parts import open_history

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "examples" / "fleet" / "rehearsal.toml"
BROWSER = find_browser()
KILLED = Path(__file__).with_name("fleet_killed.py")

runner = CliRunner()


def fleet(*arguments: object) -> Result:
    return runner.invoke(cli.app, ["fleet", *map(str, arguments)], env={"COLUMNS": "160"})


def found_in(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.stderr, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a rehearsal that nobody has stopped."""
    folder = tmp_path_factory.mktemp("fleet")
    found = found_in(fleet("run", REHEARSAL, "-o", folder, "--json"))
    assert found["folder"] == str(folder)
    return folder


def described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "fleet.json").read_text(encoding="utf-8"))
    del found["measured"]
    return found


def test_all_jobs_are_trained(ended: Path) -> None:
    found = described(ended)
    assert list(found["jobs"]) == ["documents", "programs", "vision"]
    for job in found["jobs"].values():
        rounds = job["rounds"]
        assert len(rounds) == job["num_rounds"] > 1
        assert all(each["has_quorum"] for each in rounds)
        assert job["digest"] == rounds[-1]["digest"] != rounds[0]["digest"]
        ends = [0.0, *(each["ended"] for each in rounds)]
        assert ends == sorted(ends)
        assert job["completion_seconds"] == pytest.approx(ends[-1] - job["arrival_seconds"])
        assert job["joules"] > 0
        assert job["upload_bytes"] > 0
    assert 0 < found["jobs"]["vision"]["rounds"][-1]["evaluate_metrics"]["server_accuracy"] <= 1
    segments = [each for device in found["devices"].values() for each in device["segments"]]
    hours = sum(each["ended"] - each["began"] for each in segments) / 3600
    assert hours == pytest.approx(found["totals"]["device_hours"])


def test_the_page_has_it_all_and_loads_nothing(ended: Path, tmp_path: Path) -> None:
    path = tmp_path / "fleet.html"
    result = fleet("report", ended, "-o", path)
    assert result.exit_code == 0, result.stderr
    page = path.read_text(encoding="utf-8")
    read = Read(page)
    assert (read.loads, read.count["svg"]) == ([], 4)
    assert len(read.frames) == 1
    assert "canvas" in read.frames[0]
    found = described(ended)
    for name, job in found["jobs"].items():
        assert f"<td>{name}</td>" in page
        assert f"<td>{job['completion_seconds'] / 3600:,.2f} h</td>" in page
    assert {each["workload"] for each in found["requests"]} <= set(
        re.findall("<td>(.*?)</td>", page)
    )


@pytest.mark.skipif(BROWSER is None, reason="no browser; `make browser` gets one")
@pytest.mark.parametrize(("width", "is_dark"), [(390, True), (1280, False)])
def test_a_browser_shows_the_page_without_errors(
    ended: Path, tmp_path: Path, width: int, is_dark: bool
) -> None:
    path = tmp_path / "fleet.html"
    path.write_text(fleet_report([read_fleet(ended)], read_module(ended)), encoding="utf-8")
    assert BROWSER is not None
    with open_page(BROWSER, tmp_path / "profile") as page:
        page.open(path.as_uri(), width, is_dark=is_dark)
        page.wait_for("document.readyState === 'complete'")
        page.wait_for(
            "(() => { const c = document.querySelector('iframe').contentDocument"
            "?.getElementById('chart'); return c && c.width > 100; })()"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.errors == []


def test_the_page_compares_fleets_and_keeps_names_as_text(ended: Path) -> None:
    other = read_fleet(ended)
    evil = json.loads(json.dumps(other).replace('"vision"', json.dumps(NASTY)))
    plain, page = fleet_report([other, other]), fleet_report([evil, evil])
    assert Read(page).count["td"] == Read(plain).count["td"]
    assert NASTY in evil["jobs"]
    assert "<img" not in page
    assert "Beside others" in page


@pytest.mark.parametrize("key", ["jobs", "totals", "mean_completion_seconds", "requests"])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_damaged_result_is_refused_by_its_name(
    tmp_path: Path, ended: Path, command: str, key: str
) -> None:
    whole = json.loads((ended / "fleet.json").read_text(encoding="utf-8"))
    path, page = tmp_path / "fleet.json", tmp_path / "page.html"
    for damaged in ({**whole, key: None}, {k: v for k, v in whole.items() if k != key}):
        path.write_text(json.dumps(damaged), encoding="utf-8")
        result = fleet(command, path, *(["-o", page] if command == "report" else []))
        assert result.exit_code == 2
        said = " ".join(result.stderr.split())
        assert f"{key}: it is missing, or damaged; run the fleet again" in said
    assert not page.exists()


def test_who_lacks_memory_takes_no_part(ended: Path) -> None:
    found = described(ended)
    allowed = {name: set(each["jobs"]) for name, each in found["classes"].items()}
    assert allowed == {"tablet": {"documents", "programs", "vision"}, "sensor": {"vision"}}
    seen = {
        (device["class"], each["job"])
        for device in found["devices"].values()
        for each in device["segments"]
    }
    assert seen <= {(name, job) for name, jobs in allowed.items() for job in jobs}


def test_the_store_answers_while_training_goes_on(ended: Path) -> None:
    requests = described(ended)["requests"]
    workloads = {each["workload"] for each in requests}
    assert workloads == {"clustering", "filtering", "audit", "inference"}
    assert all(not each["error"] and each["answer"] for each in requests)
    result = runner.invoke(cli.app, ["store", "ls", "--store", str(ended / "rounds"), "--json"])
    keys = {entry["key"] for entry in json.loads(result.stdout)["entries"]}
    for job, about in described(ended)["jobs"].items():
        models = {f"{job}/{number:08d}/server/model" for number in range(about["num_rounds"] + 1)}
        assert models <= keys


def test_inference_is_the_round_s_model_in_its_module(ended: Path) -> None:
    answers = [each for each in described(ended)["requests"] if each["workload"] == "inference"]
    assert [(each["job"], each["round"]) for each in answers] == [
        ("vision", 2), ("documents", 2), ("vision", 4)
    ]  # fmt: skip
    with open_history(str(ended / "rounds")) as history:

        def entry(job: str, number: int, kind: str) -> bytes:
            return bytes(history.view(Key(job, number, "server", kind)))

        for each in answers:
            job, number = each["job"], each["round"]
            artifact = as_inference_artifact(parse_artifact(entry(job, 0, "module")))
            model, examples = load(entry(job, number, "model")), load(entry(job, 0, "examples"))
            own = {name: model[name] for name in model if name in artifact.weights}
            trained = dataclasses.replace(artifact, weights={**artifact.weights, **own})
            targets = examples.pop("targets")
            session, hits = InferenceSession(trained), []
            for place, target in enumerate(targets):
                one = {name: array[place : place + 1] for name, array in examples.items()}
                (scores,) = session.run(None, one)
                hits.append(scores[0].argmax(axis=-1) == target)
            assert each["answer"]["accuracy"] == pytest.approx(np.mean(hits))


def test_a_module_that_is_not_there_is_named(ended: Path, tmp_path: Path) -> None:
    result = fleet("report", ended, "--module", "sensor/words", "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "no 'sensor/words'; there are sensor/vision, tablet/documents" in said
    result = fleet(
        "report", ended / "fleet.json", "--module", "sensor/vision", "-o", tmp_path / "p"
    )
    assert result.exit_code == 0, result.stderr
    assert "sensor/vision, compiled for ethos-u85-512" in (tmp_path / "p").read_text("utf-8")


@pytest.mark.parametrize("moment", ["vision-3"])
def test_a_fleet_that_is_killed_goes_on_as_if_it_had_not_been(
    moment: str, ended: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fleet"
    ending = subprocess.run(
        [sys.executable, str(KILLED), str(REHEARSAL), str(folder), moment], check=False, timeout=600
    )
    assert ending.returncode == -signal.SIGKILL
    assert not (folder / "fleet.json").exists()
    result = fleet("run", REHEARSAL, "-o", folder, "--resume")
    assert result.exit_code == 0, result.stderr
    assert described(folder) == described(ended)


def test_other_settings_are_not_gone_on_with(ended: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ended, folder)
    result = fleet("run", REHEARSAL, "-o", folder, "--resume", "--policy", "random")
    assert result.exit_code == 2
    assert "made with other settings" in " ".join(result.stderr.split())


def test_fleets_are_compared(ended: Path, tmp_path: Path) -> None:
    other = json.loads((ended / "fleet.json").read_text(encoding="utf-8"))
    other["policy"] = "random"
    other["mean_completion_seconds"] *= 2
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    shown = fleet("compare", ended / "fleet.json", tmp_path / "other.json")
    assert shown.exit_code == 0, shown.stderr
    assert "0.50x" in shown.stdout
    found = found_in(fleet("compare", ended, tmp_path / "other.json", "--json"))
    assert [each["policy"] for each in found["fleets"]] == ["venn", "random"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fleet.policy=best", "no policy 'best'"),
        ("population.devices=2", "one wants 3 devices of 2"),
        ("fleet.seeds=1", "fleet.seeds: there is no such key"),
        ("store.memory=much", "want a size such as 60MB"),
    ],
)
def test_a_file_that_is_wrong_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    result = fleet("run", REHEARSAL, "-o", tmp_path, "--set", setting)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
