"""Targets: the built-in ones load, every mistake in a file is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.problems import machines

import hocket.hwmodels.targets
from hocket.hwmodels.errors import TargetError
from hocket.hwmodels.loader import (
    list_targets,
    load_target,
    target_from_dict,
    target_to_dict,
)
from hocket.hwmodels.machine import HardwareModel

FOLDER = Path(hocket.hwmodels.targets.__file__).parent


def text_of(name: str = "mas-edge") -> str:
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list_targets())
def test_built_in_targets_load_and_bear_their_files_name(name: str) -> None:
    assert load_target(name).name == name


def test_mas_edge_has_the_published_shape() -> None:
    machine = load_target("mas-edge")
    assert machine.num_cores == 2
    assert machine.matrix_unit.macs_per_cycle == 16 * 16
    assert machine.vector_unit.lanes == 256
    # 30 GB/s at 3.75 GHz is four 16-bit words a cycle.
    assert machine.bandwidth_bytes_per_cycle / machine.element_bytes == pytest.approx(4.0)


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
        ("clock_hz = 3.75e9", "clock_hz = -1.0", "clock_hz must be positive"),
        ("clock_hz = 3.75e9", "clock_hz = nan", "want a finite number, got nan"),
        ("clock_hz = 3.75e9", "clock_hz =", "not valid TOML"),
        ("num_cores = 2", "num_cores = 2.5", "want int, got 2.5"),
        ("pj_per_mac = 0.084", "pj_per_mac = inf", "want a finite number, got inf"),
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


def test_unknown_names_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="the built-in ones are host, mas-edge"):
        load_target("tpu")
    with pytest.raises(TargetError, match="no such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target(tmp_path / "binary.toml")


@given(machines())
def test_machines_survive_being_written_down(machine: HardwareModel) -> None:
    assert target_from_dict(target_to_dict(machine), "machine") == machine


@given(st.sampled_from(sorted(target_to_dict(load_target("mas-edge")))))
def test_every_key_is_needed(key: str) -> None:
    fields = target_to_dict(load_target("mas-edge"))
    del fields[key]
    with pytest.raises(TargetError, match=f"missing {key}"):
        target_from_dict(fields, "machine")


def test_a_table_where_a_machine_should_be() -> None:
    with pytest.raises(TargetError, match="must be a table"):
        target_from_dict([1, 2], "machine")
    with pytest.raises(TargetError, match=r"\[dma\]: must be a table"):
        target_from_dict(target_to_dict(load_target("host")) | {"dma": 3}, "x")
