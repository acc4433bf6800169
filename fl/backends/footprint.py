"""Memory and time that training takes, from a step without numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from hocket.fl.backends.cuts import cut
from hocket.fl.backends.tensor_ledger import TensorLedger
from hocket.fl.core.backend import Footprint
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.backends.exits import ExitHead
    from hocket.fl.backends.program import TrainingProgram
    from hocket.fl.core.backend import LocalTraining, Span
    from hocket.hwmodels.machine import HardwareModel
    from hocket.runtime.steps import Step

_BACKWARD_SHARE = 2.5
"""Products of an attention's backward pass for one of its forward pass."""

_STATES = {"sgd": 0, "adam": 2, "adamw": 2}
"""Numbers that optimizers keep for each parameter; sgd one more if it has a momentum."""


@dataclass(frozen=True, eq=False)
class Work:
    """What is trained.

    Attributes:
        program: All of the model, as in training, in the sizes of a batch.
        steps: Of the artifact, in the same sizes.
        planned: The steps as they were compiled.
        weights: By name, those of early exits among them.
        trained: Names of weights that are trained.
        inputs: Names of the model's inputs.
        scores: Name of the output that the loss is of.
        heads: Early exits, by the names of their borders.
    """

    program: TrainingProgram
    steps: Sequence[Step]
    planned: Sequence[Step]
    weights: Mapping[str, torch.Tensor]
    trained: frozenset[str]
    inputs: tuple[str, ...]
    scores: str
    heads: Mapping[str, ExitHead]


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
        span: Which of the model; its borders exist.
        is_planned_for: Whether the machine is that of the artifact, whose estimates of attentions
            then hold.
    """
    if span.is_frozen:
        work = replace(work, trained=frozenset())
    results = list(dict.fromkeys([*span.exits, span.stop or work.scores]))
    program = cut(work.program, span.start, results)
    weights = _weights_of(work, program, span)
    trained_bytes = sum(_bytes(weights[name]) for name in weights if name in work.trained)
    states = _STATES[training.optimizer] + (training.momentum > 0)
    optimizer_bytes = states * trained_bytes
    # Where parameters started, if they are drawn there.
    kept_bytes = optimizer_bytes + (trained_bytes if training.proximal_mu else 0)
    if span.is_attacked:  # what is given is there as it was, beside what the attack makes of it
        kept_bytes += sum(_value_bytes(program, name) for name in _given(work, program, span))
    ledger = TensorLedger(machine)
    activation_bytes = _run(work, program, span, weights, ledger)
    attention_seconds = ledger.attention_seconds
    if is_planned_for:
        attention_seconds = (1 + _BACKWARD_SHARE) * sum(
            _planned_seconds(work.planned[number], work.steps[number])
            for number in sorted({call.step for call in program.calls})
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
        attention_seconds=attention_seconds,
    )


def _weights_of(work: Work, program: TrainingProgram, span: Span) -> dict[str, torch.Tensor]:
    read = {*program.given, *(name for each in span.exits for name in work.heads[each].names)}
    return {name: tensor for name, tensor in work.weights.items() if name in read}


def _given(work: Work, program: TrainingProgram, span: Span) -> list[str]:
    """Return the names of what a span is given."""
    return [span.start] if span.start else [name for name in work.inputs if name in program.given]


def _value_bytes(program: TrainingProgram, name: str) -> int:
    value = program.values[name]
    return math.prod(value.shape) * value.dtype.itemsize


def _run(
    work: Work,
    program: TrainingProgram,
    span: Span,
    weights: Mapping[str, torch.Tensor],
    ledger: TensorLedger,
) -> int:
    """Run a step forward and backward; return what is kept between the two."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in weights.items()
        }
        for name in _given(work, program, span):
            value = program.values[name]
            fakes[name] = torch.empty(value.shape, dtype=value.dtype)
            if span.is_attacked and value.dtype.is_floating_point:
                fakes[name].requires_grad_()
        for name in work.trained & fakes.keys():
            fakes[name].requires_grad_()
        for tensor in fakes.values():
            ledger.hold(tensor)
        before = ledger.live_bytes
        with ledger:
            found = program.run(fakes)
            losses = [_loss(work, span, name, found[name], fakes) for name in found]
            total = sum(loss for loss in losses if loss is not None)
            found.clear()
            activation_bytes = ledger.live_bytes - before
            if isinstance(total, torch.Tensor) and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    return activation_bytes


def _loss(
    work: Work, span: Span, name: str, result: torch.Tensor, fakes: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    if name in span.exits:
        head = work.heads[name]
        scores = head.scores(result, fakes[head.weight], fakes[head.bias])
        return _cross_entropy(scores) + result.square().sum()
    if name == work.scores:
        return _cross_entropy(result)
    return result.sum() if result.requires_grad else None


def _cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    rows = scores.reshape(-1, scores.shape[-1])
    wanted = torch.zeros(rows.shape[:1], dtype=torch.int64)
    return functional.cross_entropy(rows, wanted, reduction="sum")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _planned_seconds(planned: Step, step: Step) -> float:
    """Return what the forward pass of a step is predicted to take, for another batch perhaps."""
    if not isinstance(planned, AttentionStep) or not isinstance(step, AttentionStep):
        return 0.0
    share = math.prod(step.parameters.scores_shape) / math.prod(planned.parameters.scores_shape)
    return planned.estimate.seconds * share
