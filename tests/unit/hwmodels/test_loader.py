"""Targets: files load, every mistake in one is named, and machines survive being written down."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hocket.hwmodels.targets
from hocket.hwmodels.errors import TargetError
from hocket.hwmodels.loader import (
    figures_by_path,
    format_target,
    list_targets,
    load_target,
    parse_target,
    target_from_dict,
    target_to_dict,
)
from hocket.hwmodels.machine import (
    MIN_PORT_BYTES_PER_CYCLE,
    RANGES,
    DmaEngine,
    HardwareModel,
    MatrixUnit,
    MemoryLevel,
    VectorUnit,
)

FOLDER = Path(hocket.hwmodels.targets.__file__).parent
EDGE = load_target("mas-edge")
PATHS = list(figures_by_path(EDGE))

FIGURES = [path for path in PATHS if type(figures_by_path(EDGE)[path]) in (int, float)]


def text_of(name: str = "mas-edge") -> str:
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def fields_of(kind: type) -> st.SearchStrategy[Any]:
    """Any objects of a class of the machine's: all fields drawn, each in its range."""
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for name, wanted in typing.get_type_hints(kind).items():
        if wanted is int:
            drawn[name] = st.integers(*map(int, RANGES[name]))
        elif wanted is float:
            drawn[name] = st.floats(*RANGES[name])
            if name == "port_bytes_per_cycle":
                drawn[name] |= st.just(0.0)
                drawn[name] = drawn[name].filter(lambda x: not 0 < x < MIN_PORT_BYTES_PER_CYCLE)
        elif wanted is bool:
            drawn[name] = st.booleans()
        elif wanted is str:
            drawn[name] = st.text(min_size=1)
        else:
            drawn[name] = fields_of(wanted)
    return st.builds(kind, **drawn)


machines = fields_of(HardwareModel)


def with_figure(path: str, value: object) -> dict[str, Any]:
    """Return the edge machine as nested dicts, with one figure changed."""
    fields = target_to_dict(EDGE)
    table, _, key = path.rpartition(".")
    (fields[table] if table else fields)[key] = value
    return fields


@pytest.mark.parametrize("name", list_targets())
def test_built_in_targets_load_and_bear_their_files_name(name: str) -> None:
    assert load_target(name).name == name


def test_a_file_of_ones_own_loads_by_path(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text_of().replace('"mas-edge"', '"board"'), encoding="utf-8")
    assert load_target(path).name == "board"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("capacity_bytes = 5_000_000", "capacity_kb = 5_000", "another unit, as 'capacity_bytes'"),
        ("clock_hz = 3.75e9", "clock_ghz = 3.75", "another unit, as 'clock_hz'"),
        (
            "bandwidth_bytes_per_second = 30e9",
            "bandwidth_gb_per_second = 30",
            "another unit, as 'bandwidth_bytes_per_second'",
        ),
        ("lanes = 256", "lnes = 256", "did you mean 'lanes'"),
        ("lanes = 256", 'lanes = "256"', "want int, got '256'"),
        ("lanes = 256", "lanes = 0", "lanes must be at least 1"),
        ("lanes = 256", "", "missing lanes"),
        ("lanes = 256", "lanes = 0x" + "f" * 9999, "lanes must be at most 1,073,741,824, got an"),
        ("lanes = 256", "lanes = " + "9" * 5001, "not valid TOML: Exceeds the limit"),
        ("lanes = 256", "lanes = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("lanes = 256", "lanes = [0x" + "f" * 9999 + "]", "lanes: want int, got one of type list"),
        ("clock_hz = 3.75e9", "clock_hz = -1.0", "clock_hz must be at least 1.0"),
        ("clock_hz = 3.75e9", "clock_hz = 1e-300", "clock_hz must be at least 1.0"),
        ("clock_hz = 3.75e9", f"clock_hz = {10**400}", "clock_hz: want a finite number"),
        ("latency_cycles = 100", f"latency_cycles = {10**400}", "latency_cycles must be at most"),
        ("element_bytes = 2", f"element_bytes = {10**22}", "element_bytes must be at most 16"),
        ("alignment_bytes = 64", f"alignment_bytes = {10**18}", "alignment_bytes must be at most"),
        (
            "bandwidth_bytes_per_second = 30e9",
            "bandwidth_bytes_per_second = 1e-320",
            "bandwidth_bytes_per_second must be at least 1.0",
        ),
        ("port_bytes_per_cycle = 0.0", "port_bytes_per_cycle = 1e-320", "or 0 for a port"),
        ("clock_hz = 3.75e9", "clock_hz = nan", "want a finite number, got nan"),
        ("clock_hz = 3.75e9", "clock_hz =", "not valid TOML"),
        ("num_cores = 2", "num_cores = 2.5", "want int, got 2.5"),
        ("num_cores = 2", "num_cores = 1025", "num_cores must be at most 1,024, got 1025"),
        ("pj_per_mac = 0.084", "pj_per_mac = inf", "want a finite number, got inf"),
        ("has_separate_write_port = false", "has_separate_write_port = 0", "want bool, got 0"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = text_of()
    assert old in text
    path = tmp_path / "board.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(TargetError, match=r"board\.toml") as caught:
        load_target(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
def test_a_figure_of_the_wrong_type_is_named(path: str) -> None:
    wrong: object = 7 if isinstance(figures_by_path(EDGE)[path], str) else "seven"
    with pytest.raises(TargetError, match=r"^board\.toml: ") as caught:
        target_from_dict(with_figure(path, wrong), "board.toml")
    table, _, key = path.rpartition(".")
    assert f"{key}: want" in str(caught.value)
    assert f"[{table}]" in str(caught.value) or not table


@pytest.mark.parametrize("path", FIGURES)
@pytest.mark.parametrize("factor", [-1, 1.5])
def test_a_figure_outside_its_range_is_named(path: str, factor: float) -> None:
    name = path.rpartition(".")[2]
    outside = type(figures_by_path(EDGE)[path])(max(RANGES[name][1], 2) * factor)
    with pytest.raises(TargetError, match=r"^board\.toml: ") as caught:
        target_from_dict(with_figure(path, outside), "board.toml")
    assert f"{name} must be at {'least' if factor < 0 else 'most'}" in str(caught.value)


def test_every_figure_has_a_range() -> None:
    assert {path.rpartition(".")[2] for path in FIGURES} == set(RANGES)


@pytest.mark.parametrize("path", PATHS)
def test_every_key_is_needed(path: str) -> None:
    fields = target_to_dict(EDGE)
    table, _, key = path.rpartition(".")
    del (fields[table] if table else fields)[key]
    with pytest.raises(TargetError, match=f"missing {key}$"):
        target_from_dict(fields, "board.toml")


def test_unknown_names_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="the built-in ones are cortex-a53, cortex-a72, "):
        load_target("tpu")
    with pytest.raises(TargetError, match="no such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target(tmp_path / "binary.toml")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target("null\0.toml")


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(TargetError, match="/dev/zero: has more than 1,048,576 bytes"):
        load_target("/dev/zero")


def test_a_table_where_a_machine_should_be() -> None:
    with pytest.raises(TargetError, match="must be a table"):
        target_from_dict([1, 2], "machine")
    with pytest.raises(TargetError, match=r"\[dma\]: must be a table"):
        target_from_dict(target_to_dict(load_target("host")) | {"dma": 3}, "x")


def test_figures_are_found_by_the_paths_of_their_keys() -> None:
    figures = figures_by_path(EDGE)
    assert figures["num_cores"] == 2
    assert figures["dma.latency_cycles"] == EDGE.dma.latency_cycles
    kinds = (HardwareModel, MatrixUnit, VectorUnit, MemoryLevel, MemoryLevel, DmaEngine)
    # The five tables are no figures themselves.
    assert len(figures) == sum(len(dataclasses.fields(kind)) for kind in kinds) - 5


@given(machines)
def test_machines_survive_being_dicts(machine: HardwareModel) -> None:
    assert target_from_dict(target_to_dict(machine), "machine") == machine


@given(
    machines,
    st.text(),
    st.dictionaries(st.sampled_from([*PATHS, "dma", "vector_unit"]), st.text()),
)
@example(EDGE, "a\x00b\x7f\u2028c\n# d", {"dma": "x\ny = 1", "clock_hz": "[measured] 'so'"})
@example(dataclasses.replace(EDGE, name='"\\\n\t\x00\x7f\u2028\U0001f600'), "", {})
def test_machines_survive_being_written_down(
    machine: HardwareModel, header: str, comments: dict[str, str]
) -> None:
    text = format_target(machine, header, comments)
    assert parse_target(text, "machine") == machine
    # And what is said of them takes no figure's place.
    assert parse_target(format_target(machine), "machine") == machine


def test_comments_stand_beside_their_figures_or_above_where_there_is_no_room() -> None:
    text = format_target(
        EDGE,
        "An edge device.",
        {
            "clock_hz": "nominal",
            "num_cores": "two",
            "dma": "One port.",
            "dma.latency_cycles": "a word " * 20,
        },
    )
    assert text.startswith("# An edge device.\n\nname = ")
    assert "clock_hz = 3750000000.0  # nominal\nnum_cores = 2            # two\n" in text
    assert "\n# One port.\n[dma]\n" in text
    assert "# a word a word" in text.split("latency_cycles")[0].splitlines()[-2]
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_machine_without_end_is_none(value: float) -> None:
    with pytest.raises(ValueError, match="leakage_watts must be at"):
        dataclasses.replace(EDGE, leakage_watts=value)


def test_a_comment_on_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"dma\.speed"):
        format_target(EDGE, comments={"dma.speed": "fast"})
