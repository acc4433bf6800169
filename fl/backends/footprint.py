"""Memory and time that training takes, from a step without numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from hocket.fl.backends.program import make_program
from hocket.fl.backends.tensor_ledger import TensorLedger
from hocket.fl.core.backend import Footprint
from hocket.fl.core.errors import ConfigError
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.backends.training_graph import StepGraph
    from hocket.fl.core.backend import LocalTraining, Span
    from hocket.hwmodels.machine import HardwareModel
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import Step

_BACKWARD_SHARE = 2.5
"""Products of an attention's backward pass for one of its forward pass."""

_STATES = {"sgd": 0, "adam": 2, "adamw": 2}
"""Numbers that optimizers keep for each parameter; sgd one more if it has a momentum."""


@dataclass(frozen=True, eq=False)
class Work:
    """What is trained.

    Attributes:
        graphs: All steps, in the sizes of a batch.
        planned: The steps as they were compiled.
        tensors: What is at their borders, in the same sizes.
        weights: By name.
        trained: Names of weights that are trained.
        outputs: Names of the model's outputs.
        scores: The one that the loss is of.
    """

    graphs: Sequence[StepGraph]
    planned: Sequence[Step]
    tensors: Mapping[str, TensorSpec]
    weights: Mapping[str, torch.Tensor]
    trained: frozenset[str]
    outputs: tuple[str, ...]
    scores: str


def footprint_of(
    work: Work,
    machine: HardwareModel,
    training: LocalTraining,
    span: Span,
    *,
    is_planned_for: bool,
) -> Footprint:
    """Return what it takes to train a span.

    A step runs on tensors that have shapes and lifetimes but no numbers; memory is that of the
    tensors alive, scratch of single operators not counted.

    Args:
        work: All of the model.
        machine: Where it is trained.
        training: How.
        span: Which of the steps.
        is_planned_for: Whether the machine is that of the artifact, whose estimates of attentions
            then hold.

    Raises:
        ConfigError: There is no such span.
    """
    stop = len(work.graphs) if span.stop is None else span.stop
    if not 0 <= span.start < stop <= len(work.graphs):
        raise ConfigError(
            f"steps {span.start} to {stop} are no span of a model of {len(work.graphs)} steps"
        )
    graphs = work.graphs[span.start : stop]
    inputs, results = _border(work, span.start, stop)
    weights = _weights_of(work, graphs)
    trained_bytes = sum(_bytes(weights[name]) for name in weights if name in work.trained)
    states = _STATES[training.optimizer] + (training.momentum > 0)
    optimizer_bytes = states * trained_bytes
    # Where parameters started, if they are drawn there.
    kept_bytes = optimizer_bytes + (trained_bytes if training.proximal_mu else 0)
    ledger = TensorLedger(machine)
    activation_bytes = _run(work, graphs, inputs, results, weights, ledger)
    attention_seconds = ledger.attention_seconds
    if is_planned_for:
        attention_seconds = (1 + _BACKWARD_SHARE) * sum(
            _planned_seconds(planned, graph.step)
            for planned, graph in zip(work.planned[span.start : stop], graphs, strict=True)
        )
    # The optimizer reads and writes every parameter, its gradient and its state, once.
    moved = trained_bytes * (3 + 2 * states)
    optimizer_seconds = moved / machine.dma.bandwidth_bytes_per_second
    return Footprint(
        weight_bytes=sum(map(_bytes, weights.values())),
        gradient_bytes=trained_bytes,
        optimizer_bytes=optimizer_bytes,
        activation_bytes=activation_bytes,
        peak_bytes=ledger.peak_bytes + kept_bytes,
        flops=ledger.flops
        + 2 * (1 + states) * sum(weights[name].numel() for name in weights if name in work.trained),
        step_seconds=ledger.seconds + attention_seconds + optimizer_seconds,
    )


def _border(work: Work, start: int, stop: int) -> tuple[list[str], list[str]]:
    """Return the names of the tensors that a span reads from before it, and of its results."""
    steps = [graph.step for graph in work.graphs]
    made = [name for step in steps[start:stop] for name in step.outputs]
    read = dict.fromkeys(name for step in steps[start:stop] for name in step.inputs)
    later = {name for step in steps[stop:] for name in step.inputs} | set(work.outputs)
    if work.scores in made:
        later = {work.scores}
    return [name for name in read if name not in made], [name for name in made if name in later]


def _weights_of(work: Work, graphs: Sequence[StepGraph]) -> dict[str, torch.Tensor]:
    read = {name for graph in graphs for node in graph.nodes for name in node.inputs}
    return {name: tensor for name, tensor in work.weights.items() if name in read}


def _run(
    work: Work,
    graphs: Sequence[StepGraph],
    inputs: Sequence[str],
    results: Sequence[str],
    weights: Mapping[str, torch.Tensor],
    ledger: TensorLedger,
) -> int:
    """Run a step forward and backward; return what is kept between the two."""
    generator = torch.Generator()
    given = {
        name: torch.empty(
            work.tensors[name].shape, dtype=_torch_dtype(work.tensors[name]), device="meta"
        )
        for name in inputs
    }
    program = make_program(
        graphs,
        work.tensors,
        {**given, **weights},
        results,
        is_training=True,
        generator=generator,
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype)
            for name, tensor in (*given.items(), *weights.items())
        }
        for name in work.trained & fakes.keys():
            fakes[name].requires_grad_()
        for tensor in fakes.values():
            ledger.hold(tensor)
        before = ledger.live_bytes
        with ledger:
            found = program.run(fakes)
            losses = [_loss(work, name, found[name]) for name in results]
            total = sum(loss for loss in losses if loss is not None)
            found.clear()
            activation_bytes = ledger.live_bytes - before
            if isinstance(total, torch.Tensor) and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    return activation_bytes


def _loss(work: Work, name: str, result: torch.Tensor) -> torch.Tensor | None:
    if name == work.scores:
        rows = result.reshape(-1, result.shape[-1])
        wanted = torch.zeros(rows.shape[:1], dtype=torch.int64)
        return functional.cross_entropy(rows, wanted, reduction="sum")
    return result.sum() if result.requires_grad else None


def _torch_dtype(spec: TensorSpec) -> torch.dtype:
    found: torch.dtype = getattr(torch, spec.dtype.value)
    return found


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _planned_seconds(planned: Step, step: Step) -> float:
    """Return what the forward pass of a step is predicted to take, for another batch perhaps."""
    if not isinstance(planned, AttentionStep) or not isinstance(step, AttentionStep):
        return 0.0
    share = math.prod(step.parameters.scores_shape) / math.prod(planned.parameters.scores_shape)
    return planned.estimate.seconds * share
