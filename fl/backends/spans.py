"""Compiled models in pieces, each of which is run, attacked and trained without the others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from hocket.fl.backends.batching import at_own_size
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.cuts import cut, find_cuts
from hocket.fl.backends.exits import ExitHead
from hocket.fl.backends.memory_meter import MemoryMeter
from hocket.fl.backends.optimizer import finish_step, make_optimizer
from hocket.fl.backends.task import Task
from hocket.fl.backends.training_graph import as_input
from hocket.fl.core.backend import FLOAT32, SPANS
from hocket.fl.core.errors import CapabilityError, ConfigError, FederationError
from hocket.fl.core.spans import Border

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.backends.program import TrainingProgram
    from hocket.fl.core.backend import LocalTraining, Span
    from hocket.fl.core.spans import Piece
    from hocket.runtime.artifact import Artifact


class CompiledSpans(CompiledBackend):
    """A compiled classifier that can also be trained a piece at a time.

    It does what its base does, and all that ``hocket.fl.core.spans.Spans`` asks for. Parameters of
    early exits are among its parameters; they begin alike wherever it is made.

    Args:
        artifact: The compiled model, of one floating-point input.
        exits: Names of the borders that have an early exit.
        task: What it is trained to do; targets are classes.
        exit_features: Numbers that an early exit reads of an image for each class; see
            ``ExitHead``.
        frozen: As the base has it.
        num_threads: As the base has it.

    Raises:
        CapabilityError: The model is no classifier of one floating-point input, or not what its
            base can train.
        ConfigError: There is no such border.
    """

    capabilities = CompiledBackend.capabilities | {SPANS}

    def __init__(
        self,
        artifact: Artifact,
        exits: Sequence[str] = (),
        task: Task = Task(),  # noqa: B008 - frozen
        *,
        exit_features: int = 1,
        frozen: Sequence[str] = (),
        num_threads: int = 0,
    ) -> None:
        super().__init__(artifact, task, frozen=frozen, num_threads=num_threads)
        inputs = artifact.signature.inputs
        if len(inputs) != 1 or not np.issubdtype(inputs[0].numpy_dtype, np.floating):
            found = ", ".join(str(spec) for spec in inputs)
            raise CapabilityError(f"want a model of one floating-point input to cut, got {found}")
        if task.targets != "classes":
            raise CapabilityError(f"want a classifier to cut, got one of {task.targets}")
        self._input = inputs[0].name
        self._pieces: dict[Any, TrainingProgram] = {}
        self._borders = self._find_borders()
        program = self._program(at_own_size(artifact), is_training=True)
        num_classes = program.values[self._output].shape[-1]
        known = {border.name: border for border in self._borders}
        for name in exits:
            if name not in known:
                raise ConfigError(f"the model has no border {name!r}; it has {list(known)}")
            shape = known[name].shape
            self._heads[name] = ExitHead(name, shape, num_classes, exit_features)
        for head in self._heads.values():
            for name, array in head.start(np.dtype(inputs[0].numpy_dtype)).items():
                self._tensors[name] = torch.from_numpy(array).requires_grad_()
                self._names.append(name)
        self._exit_names = frozenset().union(*(head.names for head in self._heads.values()))

    def borders(self) -> tuple[Border, ...]:
        """Return all borders, in order: values with an axis of examples, and at most three more."""
        return self._borders

    def owned(self, span: Span) -> frozenset[str]:
        """Return the names of the parameters that training a span changes, its exits' among them.

        Raises:
            ConfigError: There is no such span, or an exit was not asked for.
        """
        self._check_span(span)
        sized = at_own_size(self._artifact)
        whole = self._program(sized, is_training=True)
        program = cut(whole, span.start, [span.stop or self._output])
        own = frozenset(program.given) & frozenset(self._names)
        return own.union(*(self._heads[name].names for name in span.exits))

    def features(self, start: str, stop: str, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the values at a border, or scores; the model behaves as in evaluation.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``.
        """
        wanted = stop or self._output
        with torch.no_grad():
            found = self._run(start, [wanted], as_input(inputs), is_training=False)
        array: NDArray[Any] = found[wanted].numpy()
        return array

    def losses(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example, and the scores of the last exit; as in evaluation."""
        with torch.no_grad():
            losses, scores = self._measure(piece, as_input(inputs), targets, is_training=False)
        return losses.numpy(), scores.numpy()

    def gradient(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example and its gradient by the input; as in evaluation."""
        wanted = as_input(inputs).requires_grad_()
        losses, _ = self._measure(piece, wanted, targets, is_training=False)
        (gradient,) = torch.autograd.grad(losses.sum(), [wanted])
        return losses.detach().numpy(), gradient.numpy()

    def pull_back(
        self, start: str, stop: str, inputs: NDArray[Any], gradient: NDArray[Any]
    ) -> NDArray[Any]:
        """Return a loss's gradient by the inputs, given that by the values at a border.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``; the model behaves as in evaluation.
            gradient: Of the loss by the values at the stop.
        """
        wanted, result = as_input(inputs).requires_grad_(), stop or self._output
        value = self._run(start, [result], wanted, is_training=False)[result]
        (found,) = torch.autograd.grad([value], [wanted], [as_input(gradient)])
        array: NDArray[Any] = found.numpy()
        return array

    def displacement(
        self, start: str, stop: str, inputs: NDArray[Any], origin: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return how far values are from others, squared, and the gradients by the inputs.

        Args:
            start, stop: As a ``Span`` has them.
            inputs: What is at the start, ``[batch, ...]``.
            origin: Values at the stop that distances are from.
        """
        wanted, result = as_input(inputs).requires_grad_(), stop or self._output
        value = self._run(start, [result], wanted, is_training=False)[result]
        distances = (value - as_input(origin)).flatten(1).square().sum(dim=1)
        (gradient,) = torch.autograd.grad(distances.sum(), [wanted])
        return distances.detach().numpy(), gradient.numpy()

    def scores(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the model's scores, ``[batch, classes]``, which torch can differentiate.

        For attacks of libraries: parameters have no gradients, the model behaves as in evaluation,
        and there may be more inputs than the artifact takes at a time.
        """
        parts = inputs.split(self._batch_sizes.most)  # type: ignore[no-untyped-call]
        found = [self._run("", [self._output], each, is_training=False) for each in parts]
        return torch.cat([each[self._output] for each in found])

    def train_piece(
        self,
        piece: Piece,
        training: LocalTraining,
        seed: int,
        *,
        keeps_exit_gradients: bool = False,
    ) -> CompiledTraining:
        """Return a training of a piece, with a new optimizer for what the piece owns.

        Args:
            piece: What is trained.
            training: How.
            seed: Of what is drawn.
            keeps_exit_gradients: Whether gradients of early exits add up from step to step, as they
                do in FedProphet's published code.

        Raises:
            CapabilityError: The piece has nothing to train, or not in this precision.
        """
        if training.precision != FLOAT32:
            raise CapabilityError(f"{piece.span}: pieces are not trained in {training.precision}")
        owned = self.owned(piece.span)
        leaves = {name: self._tensors[name] for name in self._names if name in owned}
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        if not leaves:
            raise CapabilityError(f"{piece.span}: there are no weights to train")
        for leaf in leaves.values():
            leaf.grad = None
        kept = self._exit_names if keeps_exit_gradients else frozenset()
        cleared = [leaf for name, leaf in leaves.items() if name not in kept]
        self._generator.manual_seed(seed)
        self._is_session_current = False
        return CompiledTraining(self, piece, training, list(leaves.values()), cleared)

    def meter(
        self,
        piece: Piece,
        batch_size: int,
        limit_bytes: int = 0,
        frozen: Sequence[Span] = (),
    ) -> MemoryMeter:
        """Return a count of what attacking and training a piece really holds; see ``Spans``."""
        for span in (piece.span, *frozen):
            self._check_span(span)
        names = [each.border or self._output for each in piece.exits]
        size = max(batch_size, self._batch_sizes.least)
        for is_training in (False, True):
            program = self._cut(size, piece.start, names, is_training=is_training)
        heads = [name for each in piece.span.exits for name in self._heads[each].names]
        held = [self._tensors[name] for name in (*program.given, *heads) if name in self._tensors]
        visiting = []
        for span in frozen:
            program = self._cut(size, span.start, [span.stop], is_training=False)
            visiting.append([self._tensors[n] for n in program.given if n in self._tensors])
        return MemoryMeter(held, limit_bytes, visiting)

    def _find_borders(self) -> tuple[Border, ...]:
        sizes = self._batch_sizes
        programs = [
            self._program(at_own_size(self._artifact, size), is_training=True)
            for size in sorted({sizes.least, sizes.most if sizes.is_fixed else sizes.least + 1})
        ]
        parameters = frozenset(self._names)
        found = []
        for each in find_cuts(programs[0], self._tensors, self._output):
            values = [program.values[each.name] for program in programs]
            first, *rest = values[0].shape or (0,)
            batches = [value.shape[:1] for value in values]
            has_batch = batches == [(sizes.least + number,) for number in range(len(values))]
            is_fit = 1 <= len(rest) <= 3 and values[0].dtype.is_floating_point
            if first and has_batch and is_fit:
                border = Border(
                    each.name, tuple(rest), each.before & parameters, each.after & parameters
                )
                found.append(border)
        return tuple(found)

    def _cut(
        self, batch_size: int, start: str, results: Sequence[str], *, is_training: bool
    ) -> TrainingProgram:
        key = (batch_size, start, tuple(results), is_training)
        if key not in self._pieces:
            sized = at_own_size(self._artifact, batch_size)
            # Made once, and of no numbers: a meter that counts a step does not see it.
            with _disable_current_modes():
                whole = self._program(sized, is_training=is_training)
            self._pieces[key] = cut(whole, start, results)
        return self._pieces[key]

    def _run(
        self, start: str, results: Sequence[str], inputs: torch.Tensor, *, is_training: bool
    ) -> dict[str, torch.Tensor]:
        """Return values by name, of as many examples as there are."""
        count = len(inputs)
        self._batch_sizes.check(count)
        missing = max(0, self._batch_sizes.least - count)
        if missing:
            if is_training and self._statistics:
                raise CapabilityError(
                    f"{count} examples are fewer than the artifact is compiled for "
                    f"({self._batch_sizes}), and its batch normalisation would see what they are "
                    "filled up with; leave the batch open when compiling"
                )
            inputs = torch.cat([inputs, inputs[:1].detach().expand(missing, *inputs.shape[1:])])
        program = self._cut(len(inputs), start, results, is_training=is_training)
        origin = start or self._input
        wanted = program.values[origin].shape
        if tuple(inputs.shape) != wanted:
            raise ConfigError(f"{origin}: want {list(wanted)}, got {list(inputs.shape)}")
        weights = {name: self._tensors[name] for name in program.given if name in self._tensors}
        if not is_training:
            weights = {name: tensor.detach() for name, tensor in weights.items()}
        found = program.run({**weights, origin: inputs})
        return {name: value[:count] for name, value in found.items()}

    def _measure(
        self, piece: Piece, inputs: torch.Tensor, targets: NDArray[Any], *, is_training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each example, and the scores of the last exit."""
        self._check_span(piece.span)
        names = [each.border or self._output for each in piece.exits]
        found = self._run(piece.start, names, inputs, is_training=is_training)
        is_class = targets.ndim == 1
        wanted = torch.from_numpy(targets.astype(np.int64, copy=False) if is_class else targets)
        losses = torch.zeros(())
        scores = losses
        for each, name in zip(piece.exits, names, strict=True):
            value = scores = found[name]
            if each.border:
                head = self._heads[name]
                weight, bias = self._tensors[head.weight], self._tensors[head.bias]
                scores = head.scores(value, weight, bias)
            loss = functional.cross_entropy(scores, wanted, reduction="none")
            if each.convexity:
                loss = loss + 0.5 * each.convexity * value.flatten(1).square().sum(dim=1)
            losses = losses + each.weight * loss
        return losses, scores


class CompiledTraining:
    """A piece that is being trained, and its optimizer; ``CompiledSpans.train_piece`` makes it."""

    def __init__(
        self,
        spans: CompiledSpans,
        piece: Piece,
        training: LocalTraining,
        leaves: Sequence[torch.Tensor],
        cleared: Sequence[torch.Tensor],
    ) -> None:
        self._spans, self._piece, self._training = spans, piece, training
        self._leaves, self._cleared = leaves, cleared
        has_origin = training.proximal_mu > 0
        self._start = [leaf.detach().clone() for leaf in leaves] if has_origin else []
        self._optimizer = make_optimizer(training, leaves)
        self._steps_taken = 0

    def step(self, inputs: NDArray[Any], targets: NDArray[Any]) -> float:
        """Take a step and return the loss before it.

        Args:
            inputs: What the piece is given, ``[batch, ...]``.
            targets: Classes, ``[batch]``, or how likely each is, ``[batch, classes]``.

        Raises:
            FederationError: The loss is no longer finite.
        """
        losses, _ = self._spans._measure(self._piece, as_input(inputs), targets, is_training=True)
        loss = losses.mean()
        del losses
        found = loss.item()
        if not math.isfinite(found):
            raise FederationError(
                f"the loss of {self._piece.span} is {found}; lower the learning rate "
                f"({self._training.learning_rate}) or clip gradients"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        finish_step(self._optimizer, self._leaves, self._start, self._training, self._steps_taken)
        self._steps_taken += 1
        # Not kept while the next batch is attacked: gradients need room.
        for leaf in self._cleared:
            leaf.grad = None
        return found
