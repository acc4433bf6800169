"""The file of a federation: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.config import FederationConfig, load_config, parse_config
from hocket.fl.core.errors import ConfigError

FOLDER = Path("/where/it/is")

FILE = """
[federation]
rounds = 3
seed = 3
folder = "run"

[model]
onnx = "cnn.onnx"
dims = { batch = "1..360" }

[strategy]
name = "fedavg"
fraction-train = 0.5

[training]
batch-size = 16
momentum = 0.9

[[device-classes]]
name = "phone"
target = "mas-edge"
share = 0.5
failure-rate = 0.3

[[device-classes]]
name = "sensor"
target = "mine.toml"
share = 0.5
"""


def parse(**changes: Any) -> FederationConfig:
    """Parse the small federation with other values, by ``section.key`` with ``__`` for the dot."""
    found = tomllib.loads(FILE)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            found.setdefault(section.replace("_", "-"), {})[key.replace("_", "-")] = value
        else:
            found[section.replace("_", "-")] = value
    return parse_config(found, "my.toml", FOLDER)


def test_a_file_says_what_it_says() -> None:
    config = parse()
    assert config.federation.rounds == 3
    assert config.federation.folder == "/where/it/is/run"
    assert config.model.onnx == "/where/it/is/cnn.onnx"
    assert config.model.sizes == {"batch": (1, 360)}
    assert config.strategy.settings == {"fraction_train": 0.5}
    assert config.training.as_training().momentum == 0.9
    assert [each.failure_rate for each in config.device_classes] == [0.3, 0.0]
    targets = [each.target for each in config.device_classes]
    assert targets == ["mas-edge", "/where/it/is/mine.toml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation__rounds": 0}, "federation.rounds: .*greater than or equal to 1, got 0"),
        ({"federation__rounds": "3"}, "federation.rounds: .*integer, got '3'"),
        ({"federation__round": 3}, "federation.round: there is no such key; .* 'rounds'"),
        ({"training__learning_rte": 3}, "training.learning-rte: .* mean 'learning-rate'"),
        ({"federation__zzz": 3}, "federation.zzz: there is no such key; there are name, rounds"),
        ({"federation__name": "a/b"}, "federation.name: .*got 'a/b'"),
        ({"federation__timeout_seconds": 0.0}, "federation.timeout-seconds: .*got 0.0"),
        ({"federation__clock": "sun"}, "federation.clock: .*'wall' or 'simulated', got 'sun'"),
        ({"engine__name": "spark"}, "engine.name: .*got 'spark'"),
        ({"engine__workers": -1}, "engine.workers: .*got -1"),
        ({"engine__threads_per_client": 0}, "engine.threads-per-client: .*got 0"),
        ({"model__artifact": "m.hkt"}, "model: want one of artifact, onnx and backend"),
        ({"model__loss": "hinge"}, "model.loss: .*got 'hinge'"),
        ({"model__dims": {"batch": "64..1"}}, "model.dims: want a positive number, a range"),
        ({"model__dims": {"batch": 0}}, "model.dims: want a positive number.*'batch'"),
        ({"model__backend": "nowhere"}, "model.backend: want package.module:function"),
        ({"data__devices": 0}, "data.devices: .*got 0"),
        ({"data__alpha": float("nan")}, "data.alpha: .*finite number, got nan"),
        ({"data__held_out_share": 1.0}, "data.held-out-share: .*got 1.0"),
        ({"training__batch_size": 0}, "training.batch-size: .*got 0"),
        ({"training__learning_rate": 0.0}, "training.learning-rate: .*got 0.0"),
        ({"training__optimizer": "lion"}, "training.optimizer: .*got 'lion'"),
        ({"training__optimizer": "adam"}, "training: momentum is for sgd"),
        ({"training__warmup_steps": 5}, "training: warmup-steps and decay-steps want max-steps"),
        ({"training__beta_1": 1.0}, "training.beta-1: .*got 1.0"),
        ({"strategy__name": 3}, "strategy.name: .*string, got 3"),
        ({"device_classes": [{"name": "a", "share": 0.5}]}, "device-classes: .*not 1 together"),
        (
            {"device_classes": [{"name": "a", "share": 0.5}] * 2},
            "device-classes: two have one name",
        ),
        (
            {"device_classes": [{"name": "a", "failure-rate": 2.0}]},
            "device-classes.0.failure-rate: .*got 2.0",
        ),
        (
            {"device_classes": [], "federation__clock": "simulated"},
            "federation.clock: simulated time wants device-classes",
        ),
        (
            {"device_classes": [{"name": "a", "shares": 1.0}]},
            "device-classes.0.shares: there is no such key; did you mean 'share'",
        ),
        ({"engine": 3}, "engine: .*got 3"),
        ({"extra": {}}, "extra: there is no such key"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^my.toml: {message}"):
        parse(**changes)


def test_several_mistakes_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(federation__rounds=0, data__devices=0)
    assert "federation.rounds" in str(caught.value)
    assert "data.devices" in str(caught.value)


def test_a_class_of_devices_has_a_name() -> None:
    with pytest.raises(ConfigError, match=r"my\.toml: device-classes\.0\.name: it is missing"):
        parse(device_classes=[{"share": 1.0}])


@pytest.mark.parametrize("text", ["rounds = ", "\xff"])
def test_a_file_that_is_no_toml_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.toml: cannot be read"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_config(tmp_path / "none.toml")


def test_values_of_the_caller_take_the_place_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nonnx = "m.onnx"\n[training]\nlearning-rate = 1.0\n')
    config = load_config(path, {"training.learning_rate": 0.5, "federation.rounds": 7})
    assert (config.training.learning_rate, config.federation.rounds) == (0.5, 7)
    for key in ("rounds", "model.onnx.more", "nowhere.key"):
        with pytest.raises(ConfigError, match=r"mine\.toml: .*there is no such key"):
            load_config(path, {key: 1})
    path.write_text("engine = 3\n")
    with pytest.raises(ConfigError, match=r"engine\.workers: there is no such key"):
        load_config(path, {"engine.workers": 1})


def test_errors_of_later_carry_the_file_and_the_section() -> None:
    with (
        pytest.raises(ConfigError, match=r"^my\.toml: data: no such thing"),
        parse().naming("data"),
    ):
        raise ConfigError("no such thing")


@pytest.mark.parametrize(
    "changes",
    [
        {"federation__rounds": 9},
        {"federation__folder": "elsewhere"},
        {"engine__workers": 4},
        {"engine__name": "ray"},
        {"model__onnx": "moved.onnx"},
        {"devices__service": "http://127.0.0.1:8471"},
    ],
)
def test_what_does_not_change_the_result_is_not_of_the_essence(changes: dict[str, Any]) -> None:
    assert parse(**changes).essence() == parse().essence()


@pytest.mark.parametrize(
    "changes",
    [
        {"federation__seed": 9},
        {"federation__timeout_seconds": 9.0},
        {"engine__threads_per_client": 4},
        {"model__frozen": ["head.*"]},
        {"data__alpha": 1.0},
        {"strategy__fraction_train": 0.25},
        {"training__clip_norm": 1.0},
        {"training__beta_2": 0.95},
        {"training__max_steps": 8, "training__decay_steps": 80, "training__final_share": 0.1},
    ],
)
def test_what_changes_the_result_is_of_the_essence(changes: dict[str, Any]) -> None:
    assert parse(**changes).essence() != parse().essence()


SECTIONS = st.fixed_dictionaries(
    {
        "federation": st.fixed_dictionaries(
            {"rounds": st.integers(1, 9), "seed": st.integers(0, 9)},
            optional={"timeout-seconds": st.floats(1e-3, 1e6)},
        ),
        "model": st.just({"onnx": "/m.onnx", "dims": {"batch": "1..8"}}),
        "training": st.fixed_dictionaries(
            {"batch-size": st.integers(1, 99), "learning-rate": st.floats(1e-6, 10.0)}
        ),
        "data": st.fixed_dictionaries({"alpha": st.floats(1e-3, 1e3)}),
    }
)


@given(SECTIONS)
def test_what_is_written_out_is_read_as_the_same(sections: dict[str, Any]) -> None:
    config = parse_config(sections, "one", Path("/"))
    written = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert parse_config(written, "one", Path("/")) == config
