"""The one file that says what a federation is, whichever engine runs it.

TOML, with keys in kebab-case as Flower's users write them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class FederationSection(_Section):
    """How long, and where results go.

    Attributes:
        name: Of the job, in the store and in logs.
        rounds: Rounds in all.
        seed: Of everything that is random.
        evaluate_every: Rounds from one evaluation to the next.
        timeout_seconds: Time that devices have for a round; none for as long as it takes.
        keep_states: Rounds whose model is kept for resuming.
        folder: Where checkpoints, metrics and the final model go; from the file's own folder.
        tensorboard: Whether to write curves for TensorBoard, too.
    """

    name: str = "federation"
    rounds: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=1, ge=1)
    timeout_seconds: float | None = Field(default=None, gt=0)
    keep_states: int = Field(default=2, ge=1)
    folder: str = "runs"
    tensorboard: bool = False


class EngineSection(_Section):
    """Where clients run.

    Attributes:
        name: Of the engine.
        workers: Processes at once; 0 for this process alone, which only the local engine can.
        threads_per_client: Threads of a client's model. Results may differ in their last bits with
            the number of threads, so it is part of what a federation is.
        address: Of the cluster, or of the SuperLink's control API; empty to start one here.
    """

    name: Literal["local", "ray", "flower"] = "local"
    workers: int = Field(default=0, ge=0)
    threads_per_client: int = Field(default=1, ge=1)
    address: str = ""


class ModelSection(_Section):
    """What is trained.

    Attributes:
        artifact: A compiled module, ``model.hkt``; or
        onnx: a model, which is compiled first.
        dims: Of ``onnx``: sizes of open dimensions, a number or a range such as ``"1..64"``.
        target: Of ``onnx``: the machine to compile for.
        output: Name of the output that the loss is of; empty for the first.
        loss: ``cross-entropy`` of classes, or of the ``next-token``.
        frozen: Patterns of names of weights that are not trained, such as ``embeddings.*``.
    """

    artifact: str = ""
    onnx: str = ""
    dims: dict[str, int | str] = Field(default_factory=dict)
    target: str = "host"
    output: str = ""
    loss: Literal["cross-entropy", "next-token"] = "cross-entropy"
    frozen: tuple[str, ...] = Field(default=(), strict=False)


class DataSection(_Section):
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

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "fedavg"

    @property
    def settings(self) -> dict[str, Any]:
        """The other keys, as names of Python."""
        return {key.replace("-", "_"): value for key, value in (self.model_extra or {}).items()}


class TrainingSection(_Section):
    """How devices train; see ``LocalTraining``."""

    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    clip_norm: float = 0.0


class DeviceClass(_Section):
    """A kind of device, for plans and for requests.

    Attributes:
        name: Of the kind.
        target: The machine that it is, a name or a TOML file.
        share: Of all devices.
        download_bytes_per_second, upload_bytes_per_second: Of its link.
    """

    name: str
    target: str = "host"
    share: float = Field(default=1.0, gt=0, le=1)
    download_bytes_per_second: float = Field(default=12_500_000.0, gt=0)
    upload_bytes_per_second: float = Field(default=2_500_000.0, gt=0)


class FederationConfig(_Section):
    """A whole file."""

    federation: FederationSection = FederationSection()
    engine: EngineSection = EngineSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    strategy: StrategySection = StrategySection()
    training: TrainingSection = TrainingSection()
    device_classes: tuple[DeviceClass, ...] = Field(default=(), strict=False)


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
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        content.setdefault(section, {})[key] = value
    return parse_config(content, str(path), path.resolve().parent)


def parse_config(content: Mapping[str, Any], origin: str, folder: Path) -> FederationConfig:
    """Build a configuration from what a file holds; see ``load_config``."""
    try:
        config = FederationConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from error
    model = config.model
    if bool(model.artifact) == bool(model.onnx):
        raise ConfigError(f"{origin}: model: want one of artifact and onnx")
    if sum(each.share for each in config.device_classes) > 1 + 1e-9:
        raise ConfigError(f"{origin}: device-classes: their shares are more than 1 together")
    placed = {
        name: str(folder / value)
        for name, value in (("artifact", model.artifact), ("onnx", model.onnx))
        if value
    }
    return config.model_copy(
        update={
            "model": model.model_copy(update=placed),
            "federation": config.federation.model_copy(
                update={"folder": str(folder / config.federation.folder)}
            ),
        }
    )


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for each in error.errors(include_url=False):
        where = ".".join(str(part).replace("_", "-") for part in each["loc"])
        reason = each["msg"]
        if each["type"] == "extra_forbidden":
            reason = "there is no such key"
        else:
            reason = f"{reason[0].lower()}{reason[1:]}, got {each['input']!r}"
        lines.append(f"{where}: {reason}")
    return f"{origin}: " + "; ".join(lines)
