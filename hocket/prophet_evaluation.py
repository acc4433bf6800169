"""What a trained model withstands: a federation's folder or a model, and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.federation import BESIDE, CONFIG, FINAL
from hocket.federation_parts import MODEL, make_partitions
from hocket.fl.config import config_from_json
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import decode_arrays
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import accuracy_of_clients
from hocket.fl.fat.robustness import evaluate_robustness
from hocket.prophet_parts import LAYOUT, read_layout
from hocket.prophet_plan import MODULE_SUFFIX, compile_open
from hocket.robust_families import pieces_of
from hocket.runtime.artifact import load_artifact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.core.data import Examples, Partitions
    from hocket.fl.fat.evaluation import ClientRobustness
    from hocket.fl.fat.robustness import Evaluation, RobustnessReport

_CLIENT_STEPS = 20


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
        spans: The composed model, with the parameters it was trained to.
        exits: Borders that have an early exit.
        partitions: What it is measured on: what the server holds out, and what devices do.
        has_clients: Whether devices hold anything out.
        radius: It was trained to withstand; 0 where nothing says.
    """

    spans: CompiledSpans
    exits: tuple[str, ...]
    partitions: Partitions
    has_clients: bool
    radius: float


@dataclass(frozen=True)
class SubjectReport:
    """What a subject withstands.

    Attributes:
        central: On what the server holds out.
        clients: On what each device holds out, under projected gradient descent; None where they
            hold nothing out, or were not asked for.
    """

    central: RobustnessReport
    clients: ClientRobustness | None


def load_subject(path: Path, source: str = "", batch_size: int = 64) -> Subject:
    """Return what is to be evaluated.

    Args:
        path: The folder that ``hocket prophet train`` or ``hocket federate run`` has left, an ONNX
            file, or a compiled module.
        source: Name of the data set, for files; a folder's own says which.
        batch_size: Most examples at a time, of an ONNX file.

    Raises:
        ConfigError: There is no trained model, or a file without a source.
    """
    from hocket.fl.backends.spans import CompiledSpans

    if path.is_dir():
        return _load_run(path)
    if not source:
        raise ConfigError(f"{path}: want --source, the data set that it is measured on")
    artifact = compile_open(path, {}, batch_size)
    name = artifact.signature.inputs[0].name
    partitions = ImagePartitions(source, Partitioning("iid", num_devices=1), name)
    return Subject(CompiledSpans(artifact), (), partitions, has_clients=False, radius=0.0)


def evaluate_subject(
    subject: Subject,
    how: Evaluation,
    seed: int,
    num_examples: int,
    *,
    with_clients: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> SubjectReport:
    """Return what a subject withstands.

    Args:
        subject: To attack.
        how: It is attacked.
        seed: Of all searches.
        num_examples: Of those that the server holds out, the first; 0 for all.
        with_clients: Whether also on what devices hold out.
        progress: Told what is being done, how much of it is, and of how much.
    """
    examples = subject.partitions.held_out()
    if num_examples:
        examples = examples.take(slice(0, num_examples))
    _check_pixels(examples)
    central = evaluate_robustness(
        subject.spans,
        subject.spans.scores,
        examples,
        how,
        seed,
        exits=subject.exits,
        progress=progress,
    )
    clients = None
    if with_clients and subject.has_clients:
        clients = accuracy_of_clients(
            subject.spans, subject.partitions, Linf(how.radius), Attack(_CLIENT_STEPS), seed
        )
    return SubjectReport(central, clients)


def _load_run(folder: Path) -> Subject:
    final, about = folder / f"{FINAL}{MODULE_SUFFIX}", folder / CONFIG
    for path in (final, about):
        if not path.exists():
            raise ConfigError(f"{path}: no such file; want the folder of a federation that is over")
    config = config_from_json(about.read_text(encoding="utf-8"))
    artifact = load_artifact(folder / MODEL)
    exits = read_layout(folder).exits if (folder / LAYOUT).exists() else ()
    spans = pieces_of(config, artifact, exits).make(artifact)
    trained = dict(load_artifact(final).weights)
    if exits:
        trained |= decode_arrays((folder / BESIDE).read_bytes(), str(folder / BESIDE))
    spans.load_parameters({name: trained[name] for name in spans.parameters()})
    return Subject(
        spans=spans,
        exits=exits,
        partitions=make_partitions(config, artifact),
        has_clients=config.data.held_out_share > 0,
        radius=float(config.strategy.settings.get("input_radius", 0.0)),
    )


def _check_pixels(examples: Examples) -> None:
    for name, array in examples.inputs.items():
        if array.min() < 0 or array.max() > 1:
            raise ConfigError(
                f"input {name!r} has numbers from {array.min():g} to {array.max():g}; attacks keep "
                "them from 0 to 1, so normalisation has to be a part of the model"
            )
