"""Calibration: what is timed, what a machine is made of it, and what its file says.

No test looks at how fast this computer is: timers are made up, or the probes are run untimed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hocket.calibration import measure as measure_module
from hocket.calibration import probes as probes_module
from hocket.calibration.measure import CalibrationError, Measurements, measure, take_rates
from hocket.calibration.probes import HEAD_DIM, Probe, make_probes
from hocket.calibration.system import Cache, read_caches
from hocket.calibration.target import Calibration, calibrate, write_target
from hocket.cli import app
from hocket.hwmodels.loader import figures_by_path, load_target
from hocket.runtime.cpu import CpuFeatures, detect_cpu
from hocket.runtime.workers import WorkerPool

DOCUMENTED = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")

runner = CliRunner()

CPU = CpuFeatures("test-cpu", vector_lanes=8, num_vector_registers=16)
FOUND = Measurements(
    cpu=CPU,
    num_cores=4,
    cycles_per_second=2e9,
    scores_per_second=2.0e8,
    maxima_per_second=1.6e10,
    exponentials_per_second=4e9,
    read_bytes_per_second=1.23456e10,
    caches=(Cache(1, 32_768, 1), Cache(2, 1 << 20, 2), Cache(3, 1 << 23, 8)),
    memory_bytes=8_000_000_000,
)


def steps(seconds: list[float]) -> Callable[[], float]:
    """Return a timer that says each span took as long as the next of these."""
    times: Iterator[float] = itertools.chain.from_iterable(
        (2.0**10, 2.0**10 + span) for span in itertools.cycle(seconds)
    )
    return lambda: next(times)


def test_a_rate_comes_from_the_median_after_a_run_that_is_not_timed() -> None:
    calls: list[str] = []
    probes = {
        "a": Probe("first", 8, lambda: calls.append("a")),
        "b": Probe("second", 3, lambda: calls.append("b")),
    }
    seen: list[tuple[str, int, int]] = []
    rates = take_rates(
        probes, 3, steps([0.5, 4, 0.25, 8, 2, 1]), lambda *progress: seen.append(progress)
    )
    assert rates == {"a": 8 / 0.5, "b": 3 / 2}
    assert "".join(calls) == "aaaa" + "bbbb"
    assert seen == [("first", 0, 2), ("second", 1, 2)]


def test_a_timer_that_stands_still_is_no_measurement() -> None:
    rates = take_rates({"a": Probe("a", 1, lambda: None)}, 3, lambda: 0.0)
    assert rates == {"a": math.inf}
    with pytest.raises(CalibrationError, match="cycles_per_second must be positive, got inf"):
        dataclasses.replace(FOUND, cycles_per_second=rates["a"])


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_rates_are_positive_numbers(rate: float) -> None:
    with pytest.raises(CalibrationError, match="read_bytes_per_second"):
        dataclasses.replace(FOUND, read_bytes_per_second=rate)


def test_every_part_is_done_once_whoever_does_it() -> None:
    done: list[int] = []
    with WorkerPool(3) as pool:
        probes_module._run_parts(pool, 50, lambda _worker, part: done.append(part))
    assert sorted(done) == list(range(50))


def test_the_probes_do_what_they_say() -> None:
    with WorkerPool(2) as pool:
        probes = make_probes(detect_cpu(), (), pool, is_quick=True)
        for probe in probes.values():
            probe.run()
    assert list(probes) == ["cycles", "maxima", "exponentials", "scores", "read_bytes"]
    columns, _, results = map(np.asarray, probes["exponentials"].operands)
    # Of the two, one may have done it all. Its sums have grown, and from 0 exp(x - 1), over and
    # over, comes near the 1 where it stays.
    worked = results[:, 0] > 0
    assert worked.any()
    assert np.all((columns[worked] > 0.9) & (columns[worked] <= 1))
    assert np.all(results[worked, : columns.shape[-1]] > 0)
    assert probes["scores"].amount == 2 * 4 * 480 * 512
    assert probes["read_bytes"].amount == 1 << 27
    assert probes["maxima"].amount == probes["exponentials"].amount == 2 * 4 * (1 << 22)


@pytest.mark.parametrize(
    ("cache_bytes", "wanted"),
    [(1 << 20, 1 << 27), (40 << 20, 160 << 20), (1 << 40, 1 << 31)],
)
def test_memory_is_read_past_all_caches(cache_bytes: int, wanted: int) -> None:
    caches = (Cache(2, 4096, 1), Cache(3, cache_bytes, 1))
    assert probes_module._bytes_to_read(caches, is_quick=True) == wanted


def test_measuring_puts_the_rates_in_their_places() -> None:
    seen: list[str] = []
    # Each run takes a quarter of a second, says this timer.
    found = measure(
        1,
        is_quick=True,
        timer=steps([0.25]),
        progress=lambda name, *_: seen.append(name),
    )
    assert found.num_cores == 1
    assert found.cycles_per_second == 4 * 2 * (1 << 20)
    assert found.scores_per_second == 4 * 4 * 480 * 512
    assert found.maxima_per_second == found.exponentials_per_second == 4 * 4 * (1 << 22)
    assert found.read_bytes_per_second >= 4 * (1 << 27)
    assert len(seen) == 5
    # And a machine can be made of what this computer says of itself.
    assert calibrate(found, "here").machine.name == "here"


def test_more_cores_than_there_are_cannot_be_measured() -> None:
    for cores in (-1, 5000):
        with pytest.raises(CalibrationError, match=f"want 1 to .* cores.* got {cores}"):
            measure(cores)


def test_a_machine_is_made_of_the_measurements() -> None:
    machine = calibrate(FOUND, "board").machine
    base = load_target("host")
    assert machine.name == "board"
    assert machine.clock_hz == 2e9
    assert machine.num_cores == 4
    # Eight lanes at 2 GHz and 16 G maxima a second: one cycle a vector; 4 G exponentials: four.
    assert machine.vector_unit.lanes == 8
    assert machine.vector_unit.max_lane_cycles == 1
    assert machine.vector_unit.exponentials_lane_cycles == 5
    # 5 ns a score, 0.3125 of it softmax: 128 multiply-accumulates in 4.6875 ns of 2 GHz.
    assert machine.matrix_unit.macs_per_cycle == round(128 / 4.6875 / 2)
    assert machine.matrix_unit.block_rows == 24
    assert machine.matrix_unit.block_columns == 4
    # Four cores have two second-level caches, and half of the third level.
    assert machine.on_chip_memory.capacity_bytes == 2 * (1 << 20) + (1 << 22)
    assert machine.outer_memory.capacity_bytes == 8_000_000_000
    assert machine.dma.bandwidth_bytes_per_second == 1.235e10
    assert machine.dma.latency_cycles == 150
    assert machine.matrix_unit.pj_per_mac == base.matrix_unit.pj_per_mac
    assert machine.vector_unit.divide_lane_cycles == base.vector_unit.divide_lane_cycles


def test_one_core_has_a_whole_second_level_cache() -> None:
    machine = calibrate(dataclasses.replace(FOUND, num_cores=1), "x").machine
    assert machine.on_chip_memory.capacity_bytes == (1 << 20) + (1 << 20)


def test_what_the_system_does_not_tell_is_kept() -> None:
    made = calibrate(dataclasses.replace(FOUND, caches=(), memory_bytes=None), "x")
    base = load_target("host")
    assert made.machine.on_chip_memory == base.on_chip_memory
    assert made.machine.outer_memory == base.outer_memory
    assert made.comments["on_chip_memory.capacity_bytes"] == "[kept] the system does not tell"
    assert made.comments["outer_memory.capacity_bytes"] == "[kept] the system does not tell"


def test_timings_that_contradict_one_another_are_refused() -> None:
    slow = dataclasses.replace(FOUND, exponentials_per_second=1e8)
    with pytest.raises(CalibrationError, match=r"10\.1 ns a score, not 5"):
        calibrate(slow, "x")


def test_measurements_of_no_machine_are_refused() -> None:
    with pytest.raises(CalibrationError, match="out of range: capacity_bytes must be at most"):
        calibrate(dataclasses.replace(FOUND, memory_bytes=1 << 60), "x")


@st.composite
def measurements(draw: st.DrawFn) -> Measurements:
    """What any CPU might be measured to do, softmax being a part of the whole."""
    clock = draw(st.floats(1e8, 1e10))
    seconds = draw(st.floats(1e-10, 1e-6))
    of_softmax = seconds * draw(st.floats(0.01, 0.9))
    of_maxima = of_softmax * draw(st.floats(0.01, 0.99))
    return Measurements(
        cpu=CpuFeatures(
            draw(st.text()), draw(st.sampled_from([4, 8, 16])), draw(st.sampled_from([16, 32]))
        ),
        num_cores=draw(st.integers(1, 1024)),
        cycles_per_second=clock,
        scores_per_second=1 / seconds,
        maxima_per_second=1 / of_maxima,
        exponentials_per_second=1 / (of_softmax - of_maxima),
        read_bytes_per_second=draw(st.floats(1e6, 1e13)),
        caches=tuple(
            draw(
                st.lists(
                    st.builds(
                        Cache,
                        st.integers(1, 4),
                        st.integers(1, 1 << 32),
                        st.integers(1, 1024),
                    ),
                    max_size=4,
                )
            )
        ),
        memory_bytes=draw(st.none() | st.integers(1, 1 << 48)),
    )


@given(measurements(), st.text(min_size=1))
def test_machines_give_back_the_times_they_are_made_of(found: Measurements, name: str) -> None:
    machine = calibrate(found, name).machine
    matrix, vector = machine.matrix_unit, machine.vector_unit
    softmax = vector.softmax_lane_cycles - vector.divide_lane_cycles
    of_softmax = softmax / vector.lanes / machine.clock_hz
    measured = 1 / found.maxima_per_second + 1 / found.exponentials_per_second
    # Four digits are written of each figure, and the clock is one of them.
    assert of_softmax == pytest.approx(measured, rel=2e-3)
    wanted = 2 * HEAD_DIM / (1 / found.scores_per_second - measured) / machine.clock_hz
    # Multiply-accumulates a cycle are whole, and one at the least.
    assert abs(matrix.macs_per_cycle - wanted) <= 0.5 + 1e-9 * wanted or wanted < 1


@given(measurements(), st.text(min_size=1))
def test_a_file_says_where_each_figure_is_from_and_loads(found: Measurements, name: str) -> None:
    made = calibrate(found, name)
    text = made.to_toml()
    assert tomllib.loads(text)["name"] == name
    figures = figures_by_path(made.machine)
    assert set(made.comments) == {
        key for key, value in figures.items() if not isinstance(value, str)
    }
    kept = figures_by_path(made.base)
    for key, comment in made.comments.items():
        assert comment.startswith(("[measured] ", "[found] ", "[kept] "))
        if comment.startswith("[kept] ") and key != "dma.latency_cycles":
            assert figures[key] == kept[key]


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calibrate(FOUND, "board")
    path = tmp_path / "board.toml"
    write_target(made, path)
    assert load_target(path) == made.machine
    assert "# [measured] 16 G scores a second" in path.read_text(encoding="utf-8")
    monkeypatch.setattr(Calibration, "to_toml", lambda _: "name = 3")
    with pytest.raises(ValueError, match=r"board\.toml"):
        write_target(made, path)
    assert load_target(path) == made.machine
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        write_target(made, tmp_path / "none" / "board.toml")


def make_cache(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="ascii")


def test_caches_are_read_as_linux_describes_them(tmp_path: Path) -> None:
    make_cache(tmp_path / "index0", level="1", type="Data", size="48K", shared_cpu_list="0")
    make_cache(tmp_path / "index1", level="1", type="Instruction", size="32K", shared_cpu_list="0")
    make_cache(tmp_path / "index3", level="3", type="Unified", size="32M", shared_cpu_list="0-3,8")
    make_cache(tmp_path / "index2", level="2", type="Unified", size="1024K", shared_cpu_list="0,4")
    assert read_caches(tmp_path) == (
        Cache(1, 48 << 10, 1),
        Cache(2, 1 << 20, 2),
        Cache(3, 32 << 20, 5),
    )


@pytest.mark.parametrize(
    "texts",
    [
        {"level": "two"},
        {"size": "big"},
        {"size": "0K"},
        {"size": ""},
        {"shared_cpu_list": ""},
        {"shared_cpu_list": "3-1"},
    ],
)
def test_a_cache_that_cannot_be_read_is_passed_over(tmp_path: Path, texts: dict[str, str]) -> None:
    described = {"level": "2", "type": "Unified", "size": "1024K", "shared_cpu_list": "0"}
    make_cache(tmp_path / "index0", **described)
    make_cache(tmp_path / "index1", **(described | texts))
    (tmp_path / "index2").mkdir()
    assert read_caches(tmp_path) == (Cache(2, 1 << 20, 1),)


def test_a_system_without_descriptions_has_no_known_caches(tmp_path: Path) -> None:
    assert read_caches(tmp_path / "none") == ()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Have the command measure nothing; the list fills with what it asked for."""
    calls: list[tuple[int, bool]] = []

    def answer(num_cores: int, *, is_quick: bool, progress: Any) -> Measurements:
        progress("clock", 0, 1)
        calls.append((num_cores, is_quick))
        return FOUND

    monkeypatch.setattr(measure_module, "measure", answer)
    return calls


def call(*arguments: object) -> Any:
    return runner.invoke(app, ["targets", "calibrate", *map(str, arguments)])


def test_the_command_writes_a_target_that_bears_its_files_name(
    asked: list[tuple[int, bool]], tmp_path: Path
) -> None:
    path = tmp_path / "board.toml"
    result = call("-o", path, "--threads", 3, "--quick", "--json")
    assert result.exit_code == 0, result.output
    assert asked == [(3, True)]
    assert load_target(path) == calibrate(FOUND, "board").machine
    answer = json.loads(result.stdout)
    assert answer["target"] == str(path)
    assert answer["name"] == "board"
    assert answer["threads"] == 4
    assert answer["seconds"] >= 0
    assert answer["figures"]["clock_hz"] == {"measured": 2e9, "host": 4e9}
    assert set(answer["figures"]) == set(calibrate(FOUND, "board").measured_keys)
    for key in (*answer, "figures.KEY.measured", "figures.KEY.host"):
        assert f"`{key}`" in DOCUMENTED


def test_the_command_shows_the_built_in_figures_beside(
    asked: list[tuple[int, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call()
    assert result.exit_code == 0, result.output
    assert asked == [(0, False)]
    row = next(line for line in result.stdout.splitlines() if line.startswith("clock_hz"))
    assert row.split() == ["clock_hz", "2,000,000,000.0", "4,000,000,000.0"]
    assert "--target host-calibrated.toml" in result.stdout
    assert load_target(tmp_path / "host-calibrated.toml").name == "host-calibrated"


def test_the_command_refuses_a_file_that_would_not_be_taken_for_a_target(
    asked: list[tuple[int, bool]], tmp_path: Path
) -> None:
    result = call("-o", tmp_path / "board.ini")
    assert result.exit_code == 2
    assert "ends in .toml" in result.stderr
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_cannot_be_measured(tmp_path: Path) -> None:
    result = call("-o", tmp_path / "x.toml", "--threads", 5000)
    assert result.exit_code == 2
    assert "got 5000" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "hocket targets calibrate" in result.stdout
    assert "Examples" in result.stdout
