"""A federation's file: what it means, and what is said of one that means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hocket.fl.config import FederationConfig, load_config, parse_config
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError

MODEL = {"model": {"onnx": "model.onnx"}}


def parse(**sections: Any) -> FederationConfig:
    return parse_config({**MODEL, **sections}, "federation.toml", Path("/somewhere"))


def test_a_model_is_all_it_needs() -> None:
    config = parse()
    assert (config.federation.rounds, config.engine.name, config.strategy.name) == (
        10,
        "local",
        "fedavg",
    )
    assert config.training.as_training() == LocalTraining()


def test_paths_are_from_the_files_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(
        '[model]\nonnx = "m.onnx"\ntarget = "mine.toml"\n[federation]\nfolder = "out"\n'
        '[[device-classes]]\nname = "a"\nshare = 0.5\ntarget = "board.toml"\n'
        '[[device-classes]]\nname = "b"\nshare = 0.5\ntarget = "mas-edge"\n'
    )
    config = load_config(path)
    assert config.model.onnx == str(tmp_path / "m.onnx")
    assert config.model.target == str(tmp_path / "mine.toml")
    assert config.federation.folder == str(tmp_path / "out")
    targets = [each.target for each in config.device_classes]
    assert targets == [str(tmp_path / "board.toml"), "mas-edge"]
    assert (config.origin, config.folder) == (str(path), tmp_path)


def test_a_strategys_own_keys_become_names_of_python() -> None:
    section = {"name": "fedavg", "fraction-train": 0.5, "minimum": {"memory-bytes": 1}}
    wanted = {"fraction_train": 0.5, "minimum": {"memory_bytes": 1}}
    assert parse(strategy=section).strategy.settings == wanted


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [(8, 8), ("1..64", (1, 64)), ("past + new", "past + new")],
    ids=["number", "range", "sum"],
)
def test_sizes_of_dimensions(sizes: int | str, wanted: object) -> None:
    config = parse(model={"onnx": "m.onnx", "dims": {"batch": sizes}})
    assert config.model.sizes == {"batch": wanted}


def test_what_does_not_change_the_model_is_not_of_the_essence() -> None:
    essence = parse().essence()
    free = parse(
        federation={"rounds": 99, "folder": "elsewhere", "tensorboard": True},
        engine={"name": "ray", "workers": 7, "address": "here:1"},
    )
    assert free.essence() == essence
    for changed in (
        {"engine": {"threads-per-client": 2}},
        {"federation": {"seed": 1}},
        {"training": {"epochs": 2}},
        {"data": {"alpha": 0.4}},
        {"strategy": {"fraction-train": 0.5}},
    ):
        assert parse(**changed).essence() != essence, changed


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {}}, "model: want one of artifact, onnx and backend"),
        ({"model": {"onnx": "a", "backend": "b:c"}}, "model: want one of artifact"),
        ({"model": {"backend": "mine.py"}}, "model.backend: want package.module:function"),
        ({"model": {"onnx": "a", "dims": {"batch": "9..1"}}}, "model.dims: want a positive"),
        ({"federation": {"name": "a/b"}}, "federation.name: string should match"),
        ({"federation": {"rounds": True}}, "federation.rounds: input should be a valid integer"),
        ({"federation": {"timeout-seconds": 0}}, "federation.timeout-seconds: input should be"),
        ({"training": {"optimizer": "adam", "momentum": 0.9}}, "training: momentum is for sgd"),
        ({"device-classes": [{"name": "a", "share": 0.4}]}, "their shares are not 1 together"),
        (
            {"device-classes": [{"name": "a", "share": 0.5}, {"name": "a", "share": 0.5}]},
            "device-classes: two have one name",
        ),
        ({"federation": {"clock": "simulated"}}, "simulated time wants device-classes"),
        ({"engin": {}}, "engin: there is no such key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_of_the_key(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**sections)
    assert str(caught.value).startswith("federation.toml: ")
    assert message in str(caught.value)
