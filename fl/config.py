"""The one file that says what a federation is, whichever engine runs it.

TOML, with keys in kebab-case as Flower's users write them. It is longer than other modules, as all
keys of a file are to be found in one place.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.sections import (
    Section,
    Size,
    StoreSection,
    parse_bytes,
    pythonic,
    read_toml,
    validated,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_SUM = re.compile(r"(?=.*[A-Za-z_])[\w.]+(\s*[+-]\s*[\w.]+)+")
_OWN = re.compile(r"[\w.]+:\w+")
# What may be another when a federation is resumed, as it does not change what comes out.
_FREE_KEYS: dict[str, Any] = {
    "federation": {"rounds", "folder", "keep_states", "tensorboard"},
    "engine": {"name", "workers", "address"},
    "devices": True,
    "store": True,
}
_SHARE_TOLERANCE = 1e-6


class FederationSection(Section):
    """How long, and where results go.

    Attributes:
        name: Of the job, in the store and in logs.
        rounds: Rounds in all.
        seed: Of everything that is random.
        evaluate_every: Rounds from one evaluation to the next.
        timeout_seconds: Time that devices have for a round; none for as long as it takes.
        clock: ``wall``, or ``simulated``: rounds then take as long as ``device_classes`` say, and
            who is late by that clock is late, however fast this machine is.
        keep_states: Rounds whose model is kept for resuming.
        folder: Where checkpoints, metrics and the final model go; from the file's own folder.
        tensorboard: Whether to write curves for TensorBoard, too.
    """

    name: str = Field(default="federation", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    rounds: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=1, ge=1)
    timeout_seconds: float | None = Field(default=None, gt=0)
    clock: Literal["wall", "simulated"] = "wall"
    keep_states: int = Field(default=2, ge=1)
    folder: str = "runs"
    tensorboard: bool = False


class EngineSection(Section):
    """Where clients run.

    Attributes:
        name: Of the engine.
        workers: Processes at once, or SuperNodes of a deployment; 0 for this process alone with the
            local engine, as many as there are cores with ray and flower, one SuperNode at an
            address.
        threads_per_client: Threads of a client's model. Results may differ in their last bits with
            the number of threads, so it is part of what a federation is.
        address: Of a Ray cluster, or of Flower's SuperLink; ``loopback`` to start a SuperLink and
            its SuperNodes here. Empty for a cluster of this machine's own, and for Flower's
            simulation.
    """

    name: Literal["local", "ray", "flower"] = "local"
    workers: int = Field(default=0, ge=0)
    threads_per_client: int = Field(default=1, ge=1)
    address: str = ""


class DevicesSection(Section):
    """Who shares the devices among several federations.

    Attributes:
        service: URL of a ``hocket venn serve``; empty where this federation has all to itself.
        token_file: What ``hocket venn token`` printed, from the file's own folder; empty for the
            environment's ``HOCKET_SERVICE_TOKEN``, if there is one.
        wait_seconds: That a round waits for devices that are at others.
        deadline_seconds: After which the service gives devices of a round to others.
    """

    service: str = Field(default="", pattern=r"^(https?://\S+)?$")
    token_file: str = ""
    wait_seconds: float = Field(default=60.0, ge=0)
    deadline_seconds: float = Field(default=3600.0, gt=0, le=2_592_000)


class ModelSection(Section):
    """What is trained: one of an artifact, an ONNX file, and a backend of your own.

    Attributes:
        artifact: A compiled module, ``model.hkt``; or
        onnx: a model, which is compiled first; or
        backend: ``package.module:function`` that makes a backend.
        dims: Of ``onnx``: sizes of open dimensions, a number, a range such as ``"1..64"``, or a sum
            of others such as ``"past + new"``.
        target: Of ``onnx``: the machine to compile for.
        output: Name of the output that the loss is of; empty for the first.
        loss: ``cross-entropy`` of classes, or of the ``next-token``.
        frozen: Patterns of names of weights that are not trained, such as ``embeddings.*``.
    """

    artifact: str = ""
    onnx: str = ""
    backend: str = ""
    dims: dict[str, int | str] = Field(default_factory=dict)
    target: str = "host"
    output: str = ""
    loss: Literal["cross-entropy", "next-token"] = "cross-entropy"
    frozen: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("backend")
    @classmethod
    def _is_own(cls, value: str) -> str:
        if value and not _OWN.fullmatch(value):
            raise ValueError("want package.module:function")
        return value

    @field_validator("dims")
    @classmethod
    def _are_sizes(cls, value: dict[str, int | str]) -> dict[str, int | str]:
        for name, size in value.items():
            if not _is_size(size):
                raise ValueError(
                    f"want a positive number, a range as in '1..64', or a sum for {name!r}"
                )
        return value

    @model_validator(mode="after")
    def _is_one(self) -> ModelSection:
        if sum(map(bool, (self.artifact, self.onnx, self.backend))) != 1:
            raise ValueError("want one of artifact, onnx and backend")
        return self

    @property
    def sizes(self) -> dict[str, int | str | tuple[int, int]]:
        """The sizes of open dimensions as ``hocket.compile`` takes them."""
        found: dict[str, int | str | tuple[int, int]] = {}
        for name, size in self.dims.items():
            span = _RANGE.fullmatch(str(size))
            found[name] = (int(span[1]), int(span[2])) if span else size
        return found


class DataSection(Section):
    """What it is trained on.

    Attributes:
        source: Name of a data set.
        input: Name of the model's input that takes it; empty for the first.
        partitioning: How it is spread over devices.
        devices: Devices there are.
        alpha, shards_per_device, min_examples: Of the partitioning.
        held_out_share: Share of each device's examples that it evaluates on.
        seed: Of the partitioning.
    """

    source: str = "digits"
    input: str = ""
    partitioning: Literal["iid", "dirichlet", "shards"] = "iid"
    devices: int = Field(default=10, ge=1)
    alpha: float = Field(default=0.3, gt=0)
    shards_per_device: int = Field(default=2, ge=1)
    min_examples: int = Field(default=10, ge=1)
    held_out_share: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)


class StrategySection(BaseModel):
    """Who is asked, and what is made of the answers.

    Attributes:
        name: Of the strategy, or ``package.module:function`` for one of your own.
        settings: All other keys, which go to it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    name: str = "fedavg"

    @property
    def settings(self) -> dict[str, Any]:
        """The other keys, as names of Python."""
        found: dict[str, Any] = pythonic(self.model_extra or {})
        return found


class TrainingSection(Section):
    """How devices train; see ``LocalTraining``.

    A schedule of the learning rate goes by the steps of all rounds, so it wants ``max_steps``.
    """

    epochs: int = Field(default=1, ge=1)
    max_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    proximal_mu: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=0.0, ge=0)
    beta_1: float = Field(default=LocalTraining.beta_1, ge=0, lt=1)
    beta_2: float = Field(default=LocalTraining.beta_2, ge=0, lt=1)
    epsilon: float = Field(default=LocalTraining.epsilon, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    final_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _is_training(self) -> TrainingSection:
        self.as_training()
        if (self.warmup_steps or self.decay_steps) and not self.max_steps:
            raise ValueError(
                "warmup-steps and decay-steps want max-steps, by which rounds are counted"
            )
        return self

    def as_training(self) -> LocalTraining:
        """Return it as what devices are told."""
        return LocalTraining(**self.model_dump())


class DeviceClass(Section):
    """A kind of device, for plans, for requests, and for simulated time.

    Attributes:
        name: Of the kind.
        target: The machine that it is, a name or a TOML file.
        share: Of all devices; all shares together are 1.
        memory_bytes: Memory that training may take; 0 for all that the machine has.
        download_bytes_per_second, upload_bytes_per_second: Of its link.
        failure_rate: Share of tasks that it drops, in simulated time.
    """

    name: str
    target: str = "host"
    share: float = Field(default=1.0, gt=0, le=1)
    memory_bytes: int = Field(default=0, ge=0)
    download_bytes_per_second: float = Field(default=12_500_000.0, gt=0)
    upload_bytes_per_second: float = Field(default=2_500_000.0, gt=0)
    failure_rate: float = Field(default=0.0, ge=0, le=1)


class ProphetSection(Section):
    """How models are trained to withstand attacks; with it, strategies are those of ``fl/fat``.

    Attributes:
        memory: What every device has for training, a number of bytes or as in ``"60MB"``. A model
            that takes more is cut into modules, or trained in part; 0 for as much as it takes.
        pool: Published pool of devices, for what a device has beyond that; empty for nothing.
        scaling: Of the pool: 0 for all its kinds alike, -1 for more of the weak ones.
        exit_features: Numbers that an early exit reads of an image for each class; 1 in the paper.
        smaller: ONNX files of smaller models, for methods that train these on small devices.
        groups: Of each weight that is cut to a smaller model's: for each of its axes, the units
            that it numbers, or nothing; as ``"channels*4"`` where each unit has four places.
        public_devices: The last devices of the data, whose examples the server has to distil with;
            they take part in no round.
    """

    memory: Size = 0
    pool: Literal["", "cifar", "caltech"] = ""
    scaling: float = 0.0
    exit_features: int = Field(default=1, ge=1)
    smaller: tuple[str, ...] = Field(default=(), strict=False)
    groups: dict[str, list[str]] = Field(default_factory=dict)
    public_devices: int = Field(default=0, ge=0)

    @property
    def memory_bytes(self) -> int:
        """The memory, in bytes."""
        return parse_bytes(self.memory)


class FederationConfig(Section):
    """A whole file."""

    federation: FederationSection = FederationSection()
    engine: EngineSection = EngineSection()
    devices: DevicesSection = DevicesSection()
    model: ModelSection
    data: DataSection = DataSection()
    strategy: StrategySection = StrategySection()
    training: TrainingSection = TrainingSection()
    device_classes: tuple[DeviceClass, ...] = Field(default=(), strict=False)
    prophet: ProphetSection | None = None
    store: StoreSection = StoreSection()
    _origin: str = PrivateAttr(default="configuration")
    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _is_consistent(self) -> FederationConfig:
        names = [each.name for each in self.device_classes]
        if len(set(names)) < len(names):
            raise ValueError(f"device-classes: two have one name, of {names}")
        if names and abs(sum(each.share for each in self.device_classes) - 1) > _SHARE_TOLERANCE:
            raise ValueError("device-classes: their shares are not 1 together")
        if self.federation.clock == "simulated" and not names:
            raise ValueError("federation.clock: simulated time wants device-classes")
        return self

    @property
    def origin(self) -> str:
        """The file, as messages name it."""
        return self._origin

    @property
    def folder(self) -> Path:
        """The folder of the file, where modules of one's own are looked for."""
        return self._folder

    @contextlib.contextmanager
    def naming(self, section: str) -> Iterator[None]:
        """Put the file and a section before the message of a ``ConfigError``."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self._origin}: {section}: {error}") from error

    def to_json(self) -> str:
        """Return all of it, with the paths that it has here; ``config_from_json`` reads it."""
        content = self.model_dump(mode="json", by_alias=True)
        about = {"config": content, "origin": self._origin, "folder": str(self._folder.resolve())}
        return json.dumps(about, indent=1)

    def essence(self) -> dict[str, Any]:
        """Return all that changes what comes out, as values of JSON.

        What is compiled is left out: the digest of the artifact says it better.
        """
        found = self.model_dump(mode="json", exclude=_FREE_KEYS)
        for name in ("artifact", "onnx", "dims", "target"):
            del found["model"][name]
        for each in found["device_classes"]:
            each["target"] = Path(each["target"]).name
        if self.prophet is None:
            del found["prophet"]  # as if there were no such section
        else:
            del found["prophet"]["smaller"]  # as the model's: their digests say it better
        return found


def load_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> FederationConfig:
    """Read a federation's file. Paths in it are made absolute, from the file's own folder.

    Args:
        path: The file.
        overrides: Values that take the place of the file's, by ``section.key``.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
    """
    path = Path(path)
    content = read_toml(path, overrides)
    return parse_config(content, str(path), path.resolve().parent)


def parse_config(content: Mapping[str, Any], origin: str, folder: Path) -> FederationConfig:
    """Build a configuration from what a file holds; see ``load_config``."""
    config = validated(FederationConfig, content, origin)
    placed: dict[str, Section | tuple[Section, ...]] = {
        "model": _placed(config.model, folder, "artifact", "onnx"),
        "federation": _placed(config.federation, folder, "folder"),
        "devices": _placed(config.devices, folder, "token_file"),
        "store": config.store.placed(folder),
    }
    # A machine is a name, or the path of a file.
    if config.model.target.endswith(".toml"):
        placed["model"] = _placed(config.model, folder, "artifact", "onnx", "target")
    placed["device_classes"] = tuple(
        _placed(each, folder, "target") if each.target.endswith(".toml") else each
        for each in config.device_classes
    )
    if config.prophet is not None:
        smaller = tuple(str(folder / name) for name in config.prophet.smaller)
        placed["prophet"] = config.prophet.model_copy(update={"smaller": smaller})
    config = config.model_copy(update=placed)
    config._origin, config._folder = origin, folder
    return config


def config_from_json(text: str) -> FederationConfig:
    """Return the configuration that ``FederationConfig.to_json`` wrote.

    Raises:
        ConfigError: It is none.
    """
    try:
        about = json.loads(text)
        content, origin, folder = about["config"], str(about["origin"]), Path(about["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"no configuration: {error!r}") from error
    return parse_config(content, origin, folder)


def _placed(section: Section, folder: Path, *names: str) -> Section:
    """Return a section whose paths are absolute."""
    paths = {name: str(folder / getattr(section, name)) for name in names if getattr(section, name)}
    return section.model_copy(update=paths)


def _is_size(size: int | str) -> bool:
    if isinstance(size, int):
        return size > 0
    span = _RANGE.fullmatch(size)
    return 0 < int(span[1]) <= int(span[2]) if span else bool(_SUM.fullmatch(size))
