"""The file that says what a run of Photon is: TOML, with keys in kebab-case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.sections import Section, StoreSection, read_toml, validated
from hocket.fl.core.server_optimizer import Sgd
from hocket.fl.photon.guard import Deadline, Guard
from hocket.fl.photon.lattice import Secure
from hocket.fl.photon.privacy import Privacy
from hocket.fl.photon.recipe import SERVER_OPTIMIZERS, Recipe, local_training
from hocket.fl.photon.sizes import SIZES, GptSize, find_size
from hocket.fl.photon.wall_time import PARAMETER_SERVER

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.fl.core.server_optimizer import ServerOptimizer


LOOPBACK = "loopback"
"""Address of a SuperLink that is started here, with its SuperNodes."""

ENGINES = ("local", "ray", "flower", "peers")
"""Where clients may run."""

METRICS = "metrics.jsonl"
"""File of a line of JSON a round, in the folder of a run."""


class RunSection(Section):
    """How long, and where results go.

    Attributes:
        name: Of the run.
        rounds: In all.
        seed: Of everything that is random.
        evaluate_every: Rounds from one evaluation to the next.
        keep_states: Rounds whose state is kept, the last ones.
        folder: Where checkpoints, metrics and the model go; from the file's own folder.
        tensorboard: Whether to write curves for TensorBoard, too.
    """

    name: str = "photon"
    rounds: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=1, ge=1)
    keep_states: int = Field(default=2, ge=1)
    folder: str = "runs/photon"
    tensorboard: bool = False


class ModelSection(Section):
    """What is trained.

    Attributes:
        size: Its name; or all sizes:
        layers, width, heads, kv_heads, context: As ``GptSize`` has them; the vocabulary is the
            data's.
    """

    size: str = ""
    layers: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    heads: int = Field(default=0, ge=0)
    kv_heads: int = Field(default=0, ge=0)
    context: int = Field(default=0, ge=0)


class DataSection(Section):
    """What it is trained on.

    Attributes:
        folder: Of shards; from the file's own folder.
        clients: Clients there are.
        partition: ``iid``, or ``by-source`` for text of its own kind for each client.
        held_out: Sequences of each source that are evaluated, at most.
        seed: Of the order.
    """

    folder: str = "shards"
    clients: int = Field(default=4, ge=1)
    partition: Literal["iid", "by-source"] = "iid"
    held_out: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)


class TrainingSection(Section):
    """How clients train; see ``recipe.local_training``.

    Attributes:
        local_steps: Steps of a round.
        local_batch, global_batch, learning_rate, warmup_steps, decay_steps, final_share,
            weight_decay, keep_optimizer: As there.
        dtype: What products are computed in; weights stay float32.
    """

    local_steps: int = Field(default=64, ge=1)
    local_batch: int = Field(default=8, ge=1)
    global_batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    final_share: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    keep_optimizer: bool = False
    dtype: Literal["float32", "bf16"] = "float32"


class ServerSection(Section):
    """What the server does.

    Attributes:
        optimizer: One of ``recipe.SERVER_OPTIMIZERS``.
        learning_rate, momentum: In place of the optimizer's own, of those that are descent.
        clients_per_round, quorum: As ``Recipe`` has them.
        scheme: How updates are sent.
        max_norm_ratio, min_cosine: Of the guard.
        deadline_factor, first_deadline_seconds: Of the deadline.
    """

    optimizer: str = "fedavg"
    learning_rate: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    clients_per_round: int = Field(default=0, ge=0)
    quorum: float = Field(default=0.5, ge=0, le=1)
    scheme: Literal["float32", "bf16", "int8", "int4"] = "int8"
    max_norm_ratio: float = Guard.max_norm_ratio
    min_cosine: float = Guard.min_cosine
    deadline_factor: float = Deadline.factor
    first_deadline_seconds: float | None = None


class EngineSection(Section):
    """Where clients run.

    Attributes:
        name: Of the engine; ``peers`` have no server.
        workers: Processes at once, of one thread each, or SuperNodes of a deployment; 0 for this
            process alone, which only the local engine can.
        topology: How peers exchange.
        address: Of Flower's SuperLink, HOST:PORT; ``loopback`` to start one here, with SuperNodes
            and TLS. Empty for Flower's simulation.
        certificate: File of the authority by which the SuperLink is known; from the file's own
            folder. Empty for those that the machine trusts.
    """

    name: Literal["local", "ray", "flower", "peers"] = "local"
    workers: int = Field(default=0, ge=0)
    topology: Literal["all-reduce", "ring-all-reduce"] = "ring-all-reduce"
    address: str = ""
    certificate: str = ""


class NodeSection(Section):
    """What a client is.

    Attributes:
        machines: Of each client; more than one make it a federation of its own.
        scheme: How machines send updates to their node.
    """

    machines: int = Field(default=1, ge=1)
    scheme: Literal["float32", "bf16", "int8", "int4"] = "float32"


class SecureSection(Section):
    """Secret sums: the server sees no update of a single client. See ``lattice.Secure``."""

    bits: Literal[8, 16, 32] = 16
    threshold: float = Field(default=Secure.threshold, ge=0, le=1)
    largest_change: float = Field(default=0.0, ge=0)


class PrivacySection(Section):
    """Differential privacy of clients; see ``privacy.Privacy``."""

    clip_norm: float = Field(gt=0)
    noise_multiplier: float = Field(gt=0)
    delta: float = Field(default=Privacy.delta, gt=0, lt=1)
    noise_by: Literal["server", "clients"] = "server"


class PhotonConfig(Section):
    """A whole file."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    training: TrainingSection = TrainingSection()
    server: ServerSection = ServerSection()
    engine: EngineSection = EngineSection()
    node: NodeSection = NodeSection()
    secure: SecureSection | None = None
    privacy: PrivacySection | None = None
    store: StoreSection = StoreSection()

    def essence(self) -> dict[str, Any]:
        """Return all that changes what comes out: not how long, where, nor how often measured."""
        content = self.model_dump(
            mode="json", exclude={"engine": True, "store": True, "data": {"folder"}}
        )
        content["run"] = {"seed": self.run.seed}
        del content["data"]["held_out"]
        return content

    def size(self, vocabulary: int) -> GptSize:
        """Return the model's size.

        Args:
            vocabulary: Of the data.

        Raises:
            ConfigError: There is no such size, or data of more tokens than it has.
        """
        model = self.model
        if not model.size:
            return GptSize(
                model.layers, model.width, model.heads, model.kv_heads, vocabulary, model.context
            )
        if any((model.layers, model.width, model.heads, model.kv_heads, model.context)):
            raise ConfigError(f"model: size {model.size!r} has all sizes; give no others")
        found = find_size(model.size)
        if vocabulary > found.vocabulary:
            raise ConfigError(
                f"model: {model.size} has {found.vocabulary} tokens, the data have {vocabulary}"
            )
        return found

    def recipe(self, context: int) -> Recipe:
        """Return how the model is trained.

        Raises:
            ConfigError: A setting is unknown, or settings do not go together.
        """
        given, server = self.training, self.server
        return Recipe(
            training=local_training(
                given.local_batch,
                given.global_batch,
                given.learning_rate,
                given.warmup_steps,
                given.decay_steps,
                given.final_share,
                given.weight_decay,
                keep_optimizer=given.keep_optimizer,
                precision=given.dtype,
            ),
            local_steps=given.local_steps,
            context=context,
            clients_per_round=server.clients_per_round,
            quorum=server.quorum,
            server_optimizer=self._server_optimizer(),
            scheme=server.scheme,
            guard=Guard(server.max_norm_ratio, server.min_cosine),
            deadline=Deadline(server.deadline_factor, first_seconds=server.first_deadline_seconds),
            topology=self.engine.topology if self.engine.name == "peers" else PARAMETER_SERVER,
            secure=None if self.secure is None else Secure(**self.secure.model_dump()),
            privacy=None if self.privacy is None else Privacy(**self.privacy.model_dump()),
        )

    def _server_optimizer(self) -> ServerOptimizer:
        name, rate, momentum = (
            self.server.optimizer,
            self.server.learning_rate,
            self.server.momentum,
        )
        if name not in SERVER_OPTIMIZERS:
            raise ConfigError(
                f"server: no optimizer {name!r}; there are {', '.join(SERVER_OPTIMIZERS)}"
            )
        found = SERVER_OPTIMIZERS[name]
        if rate is None and momentum is None:
            return found
        if not isinstance(found, Sgd):
            raise ConfigError(f"server: {name} takes no learning-rate or momentum of yours")
        chosen = found.momentum if momentum is None else momentum
        return Sgd(found.learning_rate if rate is None else rate, chosen, nesterov=chosen > 0)


def load_photon_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> PhotonConfig:
    """Read a run's file. Folders in it are made absolute, from the file's own folder.

    Args:
        path: The file.
        overrides: Values that take the place of the file's, by ``section.key``.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
    """
    path = Path(path)
    config = validated(PhotonConfig, read_toml(path, overrides), str(path))
    if not config.model.size and not config.model.layers:
        raise ConfigError(f"{path}: model: want a size ({', '.join(SIZES)}) or layers, width, ...")
    home = path.resolve().parent
    run = config.run.model_copy(update={"folder": str(home / config.run.folder)})
    data = config.data.model_copy(update={"folder": str(home / config.data.folder)})
    engine = config.engine
    if engine.certificate:
        engine = engine.model_copy(update={"certificate": str(home / engine.certificate)})
    placed = {"run": run, "data": data, "engine": engine, "store": config.store.placed(home)}
    return config.model_copy(update=placed)
