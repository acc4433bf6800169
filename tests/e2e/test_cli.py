"""The command line, from an ONNX file to numbers, as a person or a script would use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_encoder import VOCABULARY, make_tiny_encoder, write_tiny_encoder
from typer.testing import CliRunner

from hocket import __version__, hwmodels
from hocket.cli import app

DIMS = ("--dim", "batch=2", "--dim", "seq=8")
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.onnx and tiny.hkt, compiled from it."""
    folder = tmp_path_factory.mktemp("cli")
    model = write_tiny_encoder(folder)
    answer = ask("compile", model, *DIMS, "-o", folder / "tiny.hkt")
    assert answer["attention_layers"] == 1
    return folder


def ask(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Call a command with --json, and return the one object on its stdout."""
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == status, result.output
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def refuse(*arguments: object) -> str:
    """Call a command that must end with status 2, and return its message as one line."""
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    # The terminal breaks lines, and draws a box around messages on wrong use.
    return " ".join(result.stderr.replace("│", " ").split())


def say(*arguments: object) -> str:
    """Call a command for people, and return what it says."""
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_compile_tells_what_it_made(folder: Path) -> None:
    path = folder / "again.hkt"
    answer = ask("compile", folder / "tiny.onnx", *DIMS, "-o", path, "--threads", 1)
    assert answer["module"] == str(path)
    assert answer["size_bytes"] == path.stat().st_size
    assert answer["target"] == "host"
    assert answer["dims"] == {"batch": 2, "seq": 8}
    assert answer["attention_layers"] == 1
    assert answer["host_regions"] == 2
    assert len(answer["digest"]) == 64
    assert answer["estimate"]["cycles"] > 0
    (left,) = answer["not_taken"]
    assert left["node"] == "classify/softmax"
    assert left["op"] == "Softmax"
    assert left["reason"]


def test_compile_writes_beside_the_caller_by_default(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask("compile", folder / "tiny.onnx", *DIMS)["module"] == "tiny.hkt"
    assert (tmp_path / "tiny.hkt").is_file()


def test_compile_for_the_edge_target_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "edge.hkt"
    answer = ask("compile", folder / "tiny.onnx", "--target", "mas-edge", *DIMS, "-o", path)
    assert answer["target"] == "mas-edge"
    assert ask("verify", path, "--against", folder / "tiny.onnx")["ok"]


def test_run_reads_inputs_and_writes_outputs(folder: Path, tmp_path: Path) -> None:
    ids = np.arange(16).reshape(2, 8)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "mask.npy", np.ones((2, 8), np.int64))
    answer = ask(
        "run",
        folder / "tiny.hkt",
        "-i",
        f"ids={tmp_path / 'ids.npy'}",
        "-i",
        f"mask={tmp_path / 'mask.npy'}",
        "-o",
        tmp_path / "out.npz",
        "--profile",
        tmp_path / "trace.json",
    )
    with np.load(tmp_path / "out.npz") as archive:
        classes = archive["classes"]
    assert classes.shape == (2, 8, 16)
    np.testing.assert_allclose(classes.sum(axis=-1), 1, rtol=1e-5)
    assert answer["outputs"]["classes"]["shape"] == [2, 8, 16]
    assert answer["outputs"]["classes"]["max"] == pytest.approx(classes.max())
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_random_runs_depend_on_the_seed_alone(folder: Path) -> None:
    module = folder / "tiny.hkt"
    first, again, other = (
        ask("run", module, "--random", "--seed", seed)["outputs"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_verify_finds_the_numbers_equal(folder: Path) -> None:
    answer = ask("verify", folder / "tiny.hkt", "--against", folder / "tiny.onnx")
    assert answer["ok"] is True
    output = answer["outputs"]["classes"]
    assert output["ok"] is True
    assert output["max_abs_error"] < 1e-5
    assert output["num_mismatched"] == 0
    assert {"random.0", "zeros", "padded"} <= set(answer["samples"])


def test_verify_past_tolerance_is_status_1(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(make_tiny_encoder(seed=1).SerializeToString())
    answer = ask("verify", folder / "tiny.hkt", "--against", other, status=1)
    assert answer["ok"] is False
    assert answer["outputs"]["classes"]["max_abs_error"] > 1e-2


def test_bench_compares_with_onnxruntime(folder: Path) -> None:
    answer = ask("bench", folder / "tiny.hkt", "--against", folder / "tiny.onnx", "--repeats", 3)
    assert answer["ours"]["repeats"] == 3
    for contender in (answer["ours"], answer["peers"]["onnxruntime"]):
        assert 0 < contender["min_seconds"] <= contender["median_seconds"]
        assert contender["p10_seconds"] <= contender["p90_seconds"]
        assert 0 <= contender["run_memory_bytes"] <= contender["peak_memory_bytes"]
    assert answer["ours"]["predicted_run_memory_bytes"] > 0
    assert answer["peers"]["onnxruntime"]["predicted_run_memory_bytes"] is None
    ratio = answer["peers"]["onnxruntime"]["median_seconds"] / answer["ours"]["median_seconds"]
    assert answer["ratio"] == pytest.approx(ratio)


def test_inspect_shows_a_model(folder: Path) -> None:
    answer = ask("inspect", folder / "tiny.onnx", *DIMS)
    assert answer["kind"] == "model"
    assert answer["assumed_dims"] is False
    (attention,) = answer["attention"]
    assert attention["query_heads"] == attention["kv_heads"] == 2
    assert attention["query_length"] == attention["kv_length"] == 8
    assert attention["head_dim"] == 8
    assert attention["mask"] == "additive"
    assert attention["dtype"] == "float32"
    assert attention["scale"] == pytest.approx(8**-0.5)
    assert [item["node"] for item in answer["not_taken"]] == ["classify/softmax"]


def test_inspect_assumes_sizes_nobody_gave_and_says_so(folder: Path) -> None:
    answer = ask("inspect", folder / "tiny.onnx")
    assert answer["assumed_dims"] is True
    assert answer["dims"] == {"batch": 1, "seq": 128}
    assert "sizes assumed: batch=1, seq=128" in say("inspect", folder / "tiny.onnx")


def test_inspect_shows_a_module(folder: Path, tmp_path: Path) -> None:
    answer = ask("inspect", folder / "tiny.hkt", "--trace", tmp_path / "trace.json")
    assert answer["kind"] == "module"
    (attention,) = answer["attention"]
    estimate = attention["estimate"]
    assert estimate["peak_on_chip_bytes"] == attention["memory"]["on_chip"]["peak_bytes"] > 0
    moved = attention["memory"]["outer"]
    assert (
        sum(moved["read_bytes"].values()) + sum(moved["written_bytes"].values())
        == (estimate["dram_bytes"])
    )
    gap = estimate["cycles"] - estimate["bound_cycles"]
    assert sum(attention["losses"].values()) == pytest.approx(gap)
    assert attention["next_lever"]
    assert answer["host_share"] == pytest.approx(10 / 11)
    assert attention["tiling"]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    text = say("inspect", folder / "tiny.hkt", "--html", tmp_path / "schedule.html")
    assert "</html>" in (tmp_path / "schedule.html").read_text(encoding="utf-8")
    assert "next lever" in text
    assert "loads, busy" in text
    assert "energy, DRAM" in text
    assert "matrix" in text
    assert "vector" in text
    assert "classify/softmax" in text


def test_inspect_draws_a_schedule(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    say("inspect", folder / "tiny.hkt", "--plot", tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_drawing_without_the_extra_says_how_to_get_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = refuse("inspect", folder / "tiny.hkt", "--plot", tmp_path / "schedule.png")
    assert "pip install 'hocket[plot]'" in message


def test_answers_for_people_hold_the_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text = say("compile", "tiny.onnx", *DIMS, "-o", tmp_path / "tiny.hkt")
    assert "1 attention layer(s) compiled for host" in text
    assert "classify/softmax" in text
    text = say("run", "tiny.hkt", "--random", "-o", tmp_path / "out.npz")
    assert "classes" in text
    assert str(tmp_path / "out.npz") in text
    assert "same numbers on" in say("verify", "tiny.hkt", "--against", "tiny.onnx")
    text = say("bench", "tiny.hkt", "--against", "tiny.onnx", "--seconds", 0.1, "--no-memory")
    assert "than onnxruntime" in text
    assert "mas-edge" in say("targets")


def test_numbers_that_differ_are_said_to_differ(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(make_tiny_encoder(seed=1).SerializeToString())
    result = runner.invoke(app, ["verify", str(folder / "tiny.hkt"), "--against", str(other)])
    assert result.exit_code == 1
    assert "numbers differ" in result.stdout


def test_a_layer_that_is_not_there_is_refused(folder: Path) -> None:
    assert "1 layers" in refuse("inspect", folder / "tiny.hkt", "--layer", 1)


def test_a_model_has_no_schedule_to_draw(folder: Path) -> None:
    assert "compile it first" in refuse("inspect", folder / "tiny.onnx", "--plot", "x.png")


SMALL = ("--target", "mas-edge", "--problem", "2,64,16", "--budget-tasks", 4000)


def test_simulate_tells_of_each_network_and_dataflow() -> None:
    answer = ask(
        *("simulate", "-t", "mas-edge", "--network", "vit-b-16,vit-l-16"),
        *("--dataflow", "mas,flat", "--budget-tasks", 4000),
    )
    pairs = [(result["network"], result["dataflow"]) for result in answer["results"]]
    assert pairs == [
        ("vit-b-16", "mas"),
        ("vit-b-16", "flat"),
        ("vit-l-16", "mas"),
        ("vit-l-16", "flat"),
    ]
    for result in answer["results"]:
        assert result["target"] == "mas-edge"
        assert result["cycles"] >= result["bound_cycles"] > 0
        assert 0 < result["matrix_utilization"] <= 1
        assert result["infeasible"] is None


def test_simulate_takes_all_dataflows() -> None:
    answer = ask("simulate", *SMALL, "--dataflow", "all")
    names = [result["dataflow"] for result in answer["results"]]
    assert names[0] == "hocket"
    assert {"layerwise", "flat", "mas", "fusemax"} <= set(names)


def test_simulate_writes_a_file_for_each_result(tmp_path: Path) -> None:
    answer = ask("simulate", *SMALL, "--html", tmp_path / "a.html", "--trace", tmp_path / "a.json")
    assert answer["written"] == [str(tmp_path / "a.html"), str(tmp_path / "a.json")]
    answer = ask("simulate", *SMALL, "--dataflow", "mas,flat", "--html", tmp_path / "b.html")
    assert answer["written"] == [str(tmp_path / "b-mas.html"), str(tmp_path / "b-flat.html")]
    assert all(Path(path).is_file() for path in answer["written"])


def test_simulate_says_what_holds_the_program_back() -> None:
    text = say("simulate", *SMALL)
    assert "of the bound" in text
    assert "next lever: " in text
    assert "core 0  matrix" in text


def test_what_does_not_fit_is_told_beside_what_does() -> None:
    # A whole row of scores does not fit 6 kB, but tiles of it do.
    arguments = ("simulate", "-t", "mas-edge", "--problem", "1,4096,16", "--on-chip-bytes", 6000)
    answer = ask(*arguments, "--dataflow", "mas,hocket", "--budget-tasks", 4000)
    mas, ours = answer["results"]
    assert mas["cycles"] is None
    assert any(line.startswith("gap: ") for line in mas["infeasible"])
    assert ours["cycles"] > 0
    answer = ask(*arguments, "--dataflow", "mas", status=1)
    assert [result["dataflow"] for result in answer["results"]] == ["mas"]
    result = runner.invoke(app, [*map(str, arguments), "--dataflow", "mas"])
    assert result.exit_code == 1
    assert "does not fit mas-edge" in result.stdout


def test_a_search_compares_searchers() -> None:
    answer = ask("search", *SMALL, "--searcher", "exhaustive,random", "--seed", 3)
    assert [result["searcher"] for result in answer["results"]] == ["exhaustive", "random"]
    assert answer["best_searcher"] in ("exhaustive", "random")
    for result in answer["results"]:
        assert result["history"][-1]["cycles"] == result["cycles"]
        assert result["front"][0]["tiling"]["query_rows"] >= 1
    again = ask("search", *SMALL, "--searcher", "exhaustive,random", "--seed", 3)
    cycles, cycles_again = (
        [result["cycles"] for result in each["results"]] for each in (answer, again)
    )
    assert cycles == cycles_again
    text = say("search", *SMALL, "--objective", "pareto")
    assert "front of cycles and energy" in text
    assert "best after so many evaluations" in text


def test_a_search_for_what_does_not_fit_is_status_1() -> None:
    arguments = ("search", *SMALL, "--on-chip-bytes", 64)
    answer = ask(*arguments, status=1)
    assert answer["best_searcher"] is None
    assert answer["results"][0]["infeasible"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), "give one of the two"),
        (("--network", "bert-base", "--problem", "1,2,3"), "give one of the two"),
        (("--network", "bert-bse"), "did you mean 'bert-base'"),
        (("--problem", "12,512"), "as in 12,512,64"),
        (("--problem", "12,512,0"), "three positive integers"),
        (("--problem", "1,200000000,64"), "integers up to 16,777,216"),
        (("--problem", f"1,{'9' * 5000},64"), "integers up to 16,777,216"),
        (("--problem", "16777216,16777216,16"), "too many to count"),
        (("--problem", "8,64,16", "--batch", "99999999"), "--batch"),
        (("--problem", "8,64,16", "--kv-heads", "9" * 5000), "--kv-heads"),
        (("--problem", "8,64,16", "--query-length", "99999999"), "--query-length"),
        (("--problem", "8,64,16", "--kv-heads", "3"), "kv_heads must divide"),
        (("--problem", "8,64,16", "--query-length", "1", "--causal"), "needs no mask"),
        (("--problem", "8,64,16", "--dataflow", "flash"), "unknown dataflow 'flash'"),
        (("--problem", "8,64,16", "--searcher", "lucky"), "unknown searcher 'lucky'"),
        (("--problem", "8,64,16", "--objective", "beauty"), "unknown objective 'beauty'"),
        (("--problem", "8,64,16", "--vector-cost", "0"), "--vector-cost"),
        (("--problem", "8,64,16", "--on-chip-bytes", "0"), "--on-chip-bytes"),
        (("--problem", "8,64,16", "--on-chip-bytes", "9" * 30), "--on-chip-bytes"),
        (("--problem", "8,64,16", "--vector-cost", "1e300"), "--vector-cost"),
        (("--problem", "8,64,16", "--budget-tasks", "0"), "--budget-tasks"),
    ],
)
def test_a_wrong_simulation_is_named(arguments: tuple[str, ...], wanted: str) -> None:
    for command in ("simulate", "search"):
        assert wanted in refuse(command, "--target", "mas-edge", *arguments)


def test_what_cannot_be_written_is_told_before_the_search(tmp_path: Path) -> None:
    for option in ("--plot", "--html", "--trace"):
        assert "make it first" in refuse("simulate", *SMALL, option, tmp_path / "no" / "a.png")
        assert "is a folder" in refuse("simulate", *SMALL, option, tmp_path)
        assert "/proc/a.png: " in refuse("simulate", *SMALL, option, "/proc/a.png")


def test_pictures_are_what_their_names_say(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for ending, start in starts.items():
        say("simulate", *SMALL, "--plot", tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    for name in ("a", "a.jpeg", "a.html"):
        for command in (("simulate", *SMALL), ("inspect", folder / "tiny.hkt")):
            assert ".png, .svg, .pdf" in refuse(*command, "--plot", tmp_path / name)
        assert not (tmp_path / name).exists()


def test_no_two_files_are_one(folder: Path, tmp_path: Path) -> None:
    """Neither what is written twice nor what is read is written over, by whatever name."""
    module, same = folder / "tiny.hkt", tmp_path / "same.x"
    before = module.read_bytes()
    (tmp_path / "link").symlink_to(module)
    for command in (("simulate", *SMALL), ("inspect", module)):
        message = refuse(*command, "--html", same, "--trace", tmp_path / "." / "same.x")
        assert "that of --html, too" in message
    for read in (module, tmp_path / "link"):
        assert "what is read, too" in refuse("inspect", module, "--trace", read)
        assert "what is read, too" in refuse("run", module, "--random", "-o", read)
    message = refuse("run", module, "--random", "-o", same, "--profile", same)
    assert "that of --output, too" in message
    assert "what is read, too" in refuse("compile", module, "-o", module)
    assert module.read_bytes() == before
    assert not same.exists()


@pytest.mark.parametrize("option", ["--html", "--trace", "--plot"])
def test_a_schedule_that_cannot_be_written_leaves_the_old_file(
    folder: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option == "--plot":
        pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    old = tmp_path / "old.png"
    old.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for command in (("simulate", *SMALL), ("inspect", folder / "tiny.hkt")):
        assert "old.png: No space left" in refuse(*command, option, old)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"old"


def test_where_a_measured_machine_cannot_be_written_nothing_is_measured(tmp_path: Path) -> None:
    message = refuse("targets", "calibrate", "-o", tmp_path / "nosuch" / "x.toml")
    assert "x.toml: there is no such folder" in message


def test_a_search_takes_one_network() -> None:
    message = refuse("search", "-t", "mas-edge", "--network", "bert-base,xlm")
    assert "`hocket simulate` takes several" in message
    assert "--budget-seconds" in refuse("search", *SMALL, "--budget-seconds", 0)


def test_targets_are_listed_and_shown() -> None:
    names = [target["name"] for target in ask("targets")["targets"]]
    assert names == sorted(names)
    assert {"host", "mas-edge"} <= set(names)
    assert ask("targets", "show", "mas-edge")["num_cores"] == 2
    assert "macs_per_cycle" in say("targets", "show", "mas-edge")


def test_doctor_finds_nothing_amiss() -> None:
    answer = ask("doctor")
    assert answer["ok"] is True
    assert answer["versions"]["hocket"] == __version__
    assert "nothing amiss" in say("doctor")


@pytest.mark.parametrize(
    ("dims", "wanted"),
    [
        ((), "--dim batch=1 --dim seq=128"),
        (("--dim", "batch=1"), "seq"),
        (("--dim", "batch=1", "--dim", "sequence=8"), "'sequence'"),
        (("--dim", "batch"), "want name=value"),
        (("--dim", "batch=0"), "positive integer"),
    ],
)
def test_a_wrong_dimension_is_named(folder: Path, dims: tuple[str, ...], wanted: str) -> None:
    assert wanted in refuse("compile", folder / "tiny.onnx", *dims)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"", "0 bytes"), (b"not a model at all", "ONNX"), (b"PK\x03\x04", "zip")],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    message = refuse("compile", path)
    assert "wrong.onnx" in message
    assert wanted in message


@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_a_missing_model_is_named(tmp_path: Path, command: str) -> None:
    message = refuse(command, tmp_path / "gone.onnx")
    assert "gone.onnx" in message
    assert "no such file" in message.lower()


def test_a_command_that_may_have_been_meant_is_named_once() -> None:
    assert refuse("comple").count("Did you mean 'compile'?") == 1
    assert refuse("federate", "plna").count("Did you mean 'plan'?") == 1
    assert "Did you mean" not in refuse("xyzzy")


def test_a_model_is_no_module(folder: Path) -> None:
    told = refuse("run", folder / "tiny.onnx", "--random")
    assert "is not a compiled module (.hkt); `hocket compile` makes one" in told


def test_a_damaged_module_is_refused(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "tiny.hkt").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "damaged.hkt"
    path.write_bytes(content)
    for command in (("run", path, "--random"), ("inspect", path)):
        assert "does not match its digest" in refuse(*command)
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in refuse("run", path, "--random")


def test_a_module_that_is_not_the_expected_one_is_refused(folder: Path) -> None:
    module = folder / "tiny.hkt"
    digest = ask("inspect", module)["digest"]
    assert ask("run", module, "--random", "--digest", digest)["outputs"]
    assert "another module" in refuse("run", module, "--random", "--digest", "0" * 64)


def test_a_wrong_target_file_names_the_key(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = 'mine'\nclock_ghz = 1.0\n")
    message = refuse("compile", folder / "tiny.onnx", *DIMS, "--target", path)
    assert "clock_ghz" in message
    assert "clock_hz" in message


def test_a_wrong_feed_is_named(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.zeros((2, 9), np.int64))
    np.save(tmp_path / "floats.npy", np.zeros((2, 8)))
    (tmp_path / "text.npy").write_text("text")
    module = folder / "tiny.hkt"
    assert "[2, 9]" in refuse("run", module, "--random", "-i", f"ids={tmp_path / 'ids.npy'}")
    assert "float64" in refuse("run", module, "--random", "-i", f"ids={tmp_path / 'floats.npy'}")
    assert "not a .npy file" in refuse("run", module, "--random", "-i", f"ids={tmp_path}/text.npy")
    assert "unknown ['no']" in refuse("run", module, "--random", "-i", f"no={tmp_path}/ids.npy")
    assert "--random" in refuse("run", module)


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "tiny.onnx"),
        ("inspect", "tiny.hkt"),
        ("run", "tiny.hkt", "--random"),
        ("verify", "tiny.hkt", "--against", "tiny.onnx"),
        ("bench", "tiny.hkt", "--against", "tiny.onnx", "--repeats", "1", "--no-memory"),
        ("compile", "tiny.onnx", *DIMS),
        ("targets",),
        ("doctor",),
        ("simulate", *map(str, SMALL), "--dataflow", "all"),
        ("simulate", *map(str, SMALL), "--objective", "pareto"),
        ("search", *map(str, SMALL)),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_every_key_is_documented(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    undocumented = [key for key in keys_of(ask(*arguments)) if f"{key}" not in DOCUMENTED]
    assert undocumented == []


def keys_of(value: Any) -> list[str]:
    """Return all keys of nested objects but those that are names of the user's."""
    if isinstance(value, list):
        return [key for item in value for key in keys_of(item)]
    if not isinstance(value, dict):
        return []
    keys = []
    for key, item in value.items():
        keys.append(key)
        if key in ("dims", "versions", "variables"):
            continue
        keys += keys_of(
            list(item.values()) if key == "outputs" and isinstance(item, dict) else item
        )
    return keys


def test_every_command_has_help_with_examples() -> None:
    names = (
        *("compile", "run", "verify", "bench", "inspect"),
        *("simulate", "search", "targets", "doctor"),
    )
    for command in names:
        text = say(command, "--help")
        assert f"hocket {command}" in text
        assert "Examples" in text


def test_the_installed_command_answers_in_a_process_of_its_own(folder: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hocket", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    assert call("--version").stdout == f"hocket {__version__}\n"
    result = call("verify", "tiny.hkt", "--against", "tiny.onnx", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ok"] is True
    result = call("inspect", "gone.onnx")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "gone.onnx" in result.stderr


def test_help_loads_no_heavy_package() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hocket.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"numpy", "numba", "onnx", "onnxruntime", "onnx_ir", "torch"}
    assert heavy & set(result.stdout.split()) == set()


def test_ids_are_sampled_from_the_whole_table(folder: Path) -> None:
    """What the compiler found of the range of ids reaches the sampler through the module."""
    inputs = ask("inspect", folder / "tiny.hkt")["inputs"]
    assert inputs[0]["value_range"] == [0, VOCABULARY]


def test_what_stands_at_the_output_and_is_no_file_stays(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "pipe", tmp_path):
        message = refuse("compile", folder / "tiny.onnx", *DIMS, "-o", output)
        assert output.name in message
    message = refuse("compile", folder / "tiny.onnx", *DIMS, "-o", tmp_path / "no" / "a.hkt")
    assert "a.hkt" in message
    assert ".tmp" not in message
    assert (tmp_path / "pipe").is_fifo()
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_the_trace_of_a_run_leaves_nothing_else_behind(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    ask("run", folder / "tiny.hkt", "--random", "--profile", trace)
    assert list(tmp_path.iterdir()) == [trace]
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.parametrize(
    "arguments",
    [("--seed", "-1"), ("--threads", "-1")],
)
def test_numbers_out_of_range_are_wrong_use(folder: Path, arguments: tuple[str, ...]) -> None:
    assert arguments[0] in refuse("run", folder / "tiny.hkt", "--random", *arguments)


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "٣", "9" * 23, "9" * 5000])
def test_odd_sizes_are_refused(folder: Path, size: str) -> None:
    message = refuse("compile", folder / "tiny.onnx", "--dim", f"batch={size}", "--dim", "seq=8")
    assert "batch" in message


def test_a_cache_that_cannot_be_used_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HOCKET_CACHE_DIR", str(tmp_path / "file"))
    answer = ask("doctor", status=1)
    assert any("HOCKET_CACHE_DIR" in problem for problem in answer["problems"])
    assert "HOCKET_CACHE_DIR" in refuse("run", folder / "tiny.hkt", "--random")


def test_an_id_past_the_table_names_the_step(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.full((2, 8), 10_000))
    np.save(tmp_path / "mask.npy", np.ones((2, 8), np.int64))
    message = refuse(
        "run",
        folder / "tiny.hkt",
        "-i",
        f"ids={tmp_path / 'ids.npy'}",
        "-i",
        f"mask={tmp_path / 'mask.npy'}",
    )
    assert "step 'host.0'" in message


def test_brackets_in_names_are_no_orders_to_the_terminal(folder: Path, tmp_path: Path) -> None:
    """What rich would take for a style, or refuse to read, in names of targets and files."""
    text = (Path(hwmodels.__file__).parent / "targets" / "mas-edge.toml").read_text("utf-8")
    target = tmp_path / "y[red].toml"
    target.write_text(text.replace('"mas-edge"', '"x[/foo]"'), "utf-8")
    assert say("targets", "show", target).count("x[/foo]") == 2
    small = ("--target", target, "--problem", "2,32,16", "--budget-tasks", 2000)
    trace = tmp_path / "a[red]b.json"
    answer = say("simulate", *small, "--trace", trace)
    assert "x[/foo]: 2 x" in answer
    assert "a[red]b.json" in answer
    assert "x[/foo]" in say("search", *small)
    assert (
        "x[/foo]"
        in runner.invoke(app, ["simulate", *map(str, small), "--on-chip-bytes", "64"]).stdout
    )
    module = tmp_path / "z[red]q.hkt"
    model = folder / "tiny.onnx"
    answer = say("compile", model, *DIMS, "--target", target, "-o", module)
    assert "z[red]q.hkt" in answer
    assert "compiled for x[/foo]" in answer
    assert "x[/foo]" in say("inspect", module)
    assert "o[red].npz" in say("run", module, "--random", "-o", tmp_path / "o[red].npz")
    assert "n[red].hkt" in refuse("run", tmp_path / "n[red].hkt", "--random")
    assert "'[/foo]'" in refuse("simulate", "--target", target, "--problem", "[/foo]")


def test_venn_compares_policies(tmp_path: Path) -> None:
    picture = tmp_path / "sharing.svg"
    options = ("--jobs", 4, "--devices", 20_000, "--round-share", 0.005, "--seed", 1)
    answer = ask(
        "venn", "simulate", "--workload", "low", "--policy", "venn,random", *options, "-o", picture
    )
    assert list(answer["policies"]) == ["venn", "random"]
    assert answer["checkins_per_second"] > 0
    assert picture.read_bytes().startswith(b"<?xml")
    for found in answer["policies"].values():
        assert found["completed_jobs"] == 4
        assert found["mean_jct_seconds"] == pytest.approx(np.mean(found["jct_seconds"]))
        assert found["scheduling_delay_seconds"] > 0
        assert found["response_seconds"] > 0
        for key in found:
            assert f"`{key}`" in DOCUMENTED
    table = runner.invoke(app, ["venn", "simulate", *map(str, options), "--policy", "fifo,srsf"])
    assert table.exit_code == 0, table.output
    assert "surrogate" in table.stdout


def test_venn_says_what_it_does_not_know() -> None:
    assert "no policy 'best'" in refuse("venn", "simulate", "--policy", "best")
    assert "no workload 'odd'" in refuse("venn", "simulate", "--workload", "odd")
    assert "--capacities" in refuse("venn", "simulate", "--sessions", "some.csv")
