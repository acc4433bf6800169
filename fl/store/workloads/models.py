"""Work that runs models: what a round's model says, who is good at what, and who is broken.

A compiled module and examples are entries like any other, so that they, too, lie in memory where
the work is. Who runs modules is handed in: this wing knows none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import EXAMPLES, MODEL, MODULE, SERVER, UPDATE, Access
from hocket.fl.store.workloads.workload import Answer, Plan, Question, Workload, round_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.store.catalog import Catalog

    Contents = Sequence[tuple[Key, memoryview]]

TARGETS = "targets"
"""Of the arrays of examples, the classes that are wanted; all others are inputs, by their names."""


class Model(Protocol):
    """A module that can be run with other parameters, time and again."""

    def outputs(self, parameters: Parameters, inputs: Parameters) -> dict[str, NDArray[Any]]:
        """Return what it says to examples.

        Args:
            parameters: By name.
            inputs: By name; the first axis is that of the examples.

        Returns:
            By the outputs' names, the first being scores; the first axis is that of the examples.

        Raises:
            ConfigError: Parameters or inputs are not those of the module.
        """
        ...


class MakeModel(Protocol):
    """Makes a model from the bytes of a module."""

    def __call__(self, module: memoryview) -> Model:
        """Return the model.

        Raises:
            ConfigError: It is no module.
        """
        ...


class ComputeWithModel(Protocol):
    """Makes the answer; reads nothing but what it is given."""

    def __call__(self, facts: Mapping[str, Any], contents: Contents, model: Model) -> Answer:
        """Return the answer.

        Args:
            facts: Of the plan.
            contents: The entries of the plan but the module, in its order.
            model: Of the module.
        """
        ...


@dataclass(frozen=True)
class ModelWorkload(Workload):
    """Work that runs a model; its plan's first entry is the module.

    Attributes:
        compute_with: What it does, in place of ``compute``.
    """

    compute_with: ComputeWithModel | None = None


def _no_model(facts: Mapping[str, Any], contents: Contents) -> Answer:
    del facts, contents
    raise ConfigError("this work runs a model: the store was opened without what runs them")


def _plan(catalog: Catalog, question: Question, facts: dict[str, Any], *keys: Key) -> Plan:
    """Return a plan that reads the module, the examples and some more.

    Raises:
        ConfigError: One of them is not there; says how to put it.
    """
    aids = []
    for kind in (MODULE, EXAMPLES):
        named = question.options.get(kind)
        key = Key(question.job, 0, SERVER, kind) if named is None else Key.parse(str(named))
        if key not in catalog:
            raise ConfigError(f"there is no {key}: `hocket store put` it, or name one by {kind!r}")
        aids.append(key)
    digest = catalog.entry(aids[0]).digest
    return Plan({**facts, MODULE: digest}, (*aids, *keys))


def prepare_inference(catalog: Catalog, question: Question) -> Plan:
    """Ask what a round's model says to examples; of a device, its update.

    By the options ``module`` and ``examples`` other entries than ``JOB/0/server/module`` and
    ``JOB/0/server/examples`` are taken.
    """
    device, kind = (question.device, UPDATE) if question.device else (SERVER, MODEL)
    number = question.round
    if number is None:
        number = max(catalog.rounds(question.job, kind, device), default=0)
    key = Key(question.job, number, device, kind)
    if key not in catalog:
        raise ConfigError(f"there is no {key}")
    return _plan(catalog, question, {"round": number, "device": device}, key)


def infer(facts: Mapping[str, Any], contents: Contents, model: Model) -> Answer:
    """Return the model's outputs, what it predicts, and how often that is what is wanted.

    Of a model of language only how often, for tokens are many; targets below 0 do not count.
    """
    inputs, targets = _examples(contents[0])
    key, content = contents[1]
    outputs = model.outputs(layout.view(content, str(key)), inputs)
    values = {name: facts[name] for name in ("round", "device")}
    predicted = _predictions(outputs)
    if predicted is not None:
        values["predictions"] = predicted.tolist()
        if targets is not None:
            values["accuracy"] = float((predicted == targets).mean())
    elif targets is not None and (counts := targets >= 0).any():
        scores = next(iter(outputs.values()))
        if scores.shape[:-1] == targets.shape:
            values["accuracy"] = float((scores.argmax(axis=-1) == targets)[counts].mean())
    return Answer(values, outputs)


def prepare_accuracy(catalog: Catalog, question: Question) -> Plan:
    """Ask for ``count`` (5) devices whose updates are right most often on the server's examples."""
    members = round_of(catalog, question)
    facts = {"round": members.number, "devices": list(members.devices)}
    facts["count"] = question.count("count", 5)
    return _plan(catalog, question, facts, *members.keys(question.job))


def schedule_by_accuracy(facts: Mapping[str, Any], contents: Contents, model: Model) -> Answer:
    """Return the accuracy of each update, and the best."""
    inputs, targets = _examples(contents[0])
    if targets is None:
        raise ConfigError(f"{contents[0][0]}: want the classes, as an array {TARGETS!r}")
    found = {}
    for device, (key, content) in zip(facts["devices"], contents[1:], strict=True):
        predicted = _predictions(model.outputs(layout.view(content, str(key)), inputs))
        if predicted is None:
            raise ConfigError("the module's first output is no score of each class")
        found[device] = float((predicted == targets).mean())
    order = sorted(found, key=lambda device: (-found[device], device))
    return Answer({"round": facts["round"], "accuracy": found, "chosen": order[: facts["count"]]})


def prepare_debugging(catalog: Catalog, question: Question) -> Plan:
    """Ask which update behaves unlike the others.

    A neuron is active above ``threshold`` (0); a device stands out that is the odd one for more
    than a ``share`` (0.5) of the examples.
    """
    members = round_of(catalog, question)
    if len(members.devices) < 3:
        raise ConfigError(f"round {members.number}: want 3 updates or more to tell who is unlike")
    threshold = question.options.get("threshold", 0.0)
    if isinstance(threshold, (str, bool)):
        raise ConfigError(f"option 'threshold': want a number, got {threshold!r}")
    facts = {
        "round": members.number,
        "devices": list(members.devices),
        "threshold": threshold,
        "share": question.number("share", 0.5),
    }
    return _plan(catalog, question, facts, *members.keys(question.job))


def debug(facts: Mapping[str, Any], contents: Contents, model: Model) -> Answer:
    """Return how often each update is the odd one, by activations and by predictions.

    For each example, the odd one is the update without which the most neurons agree on whether
    they are active (Gill et al. 2023, FedDebug, section 4). Neurons are the numbers of all outputs
    of the module: export hidden layers as outputs to look at them, too.
    """
    inputs, _ = _examples(contents[0])
    said = [model.outputs(layout.view(each, str(key)), inputs) for key, each in contents[1:]]
    active = np.stack(
        [
            np.concatenate([each.reshape(len(each), -1) for each in outputs.values()], axis=1)
            > facts["threshold"]
            for outputs in said
        ]
    )
    odd = odd_ones(active)
    devices, num_examples = facts["devices"], active.shape[1]
    shares = {
        device: float((odd == place).sum() / num_examples) for place, device in enumerate(devices)
    }
    values = {
        "round": facts["round"],
        "odd_one": shares,
        "suspicious": sorted(name for name, share in shares.items() if share > facts["share"]),
    }
    predicted = [_predictions(outputs) for outputs in said]
    if all(each is not None for each in predicted):
        classes = np.array(predicted)
        # Of several classes that as many predict, the first.
        usual = [np.bincount(column).argmax() for column in classes.T]
        unlike = (classes != np.array(usual)).mean(axis=1).tolist()
        values["unlike_majority"] = dict(zip(devices, unlike, strict=True))
    return Answer(values)


def odd_ones(active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the odd one of each example, ``[examples]``; -1 where no one stands out.

    Args:
        active: ``[updates, examples, neurons]``.
    """
    count = len(active)
    others = active.sum(axis=0, dtype=np.int64)[None] - active
    agreed = ((others == 0) | (others == count - 1)).sum(axis=2)
    best = agreed.argmax(axis=0)
    is_single = (agreed == agreed.max(axis=0)).sum(axis=0) == 1
    found: NDArray[np.int64] = np.where(is_single, best, -1)
    return found


def _examples(entry: tuple[Key, memoryview]) -> tuple[dict[str, Any], NDArray[Any] | None]:
    key, content = entry
    inputs = dict(layout.view(content, str(key)))
    targets = inputs.pop(TARGETS, None)
    return inputs, targets


def _predictions(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
    """Return the classes with the highest scores, if the first output has scores of classes."""
    scores = next(iter(outputs.values()))
    if scores.ndim != 2:
        return None
    found: NDArray[np.int64] = scores.argmax(axis=1)
    return found


WORKLOADS = (
    ModelWorkload(
        "inference",
        Access.MODEL,
        "what a round's model says to examples",
        prepare_inference,
        _no_model,
        infer,
    ),
    ModelWorkload(
        "accuracy-scheduling",
        Access.ROUND,
        "devices whose updates are right most often on the server's examples",
        prepare_accuracy,
        _no_model,
        schedule_by_accuracy,
    ),
    ModelWorkload(
        "debugging",
        Access.ROUND,
        "updates that behave unlike the others, by activations and predictions",
        prepare_debugging,
        _no_model,
        debug,
    ),
)
