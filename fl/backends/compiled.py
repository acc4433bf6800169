"""A backend made from an artifact alone, which is what a server sends its clients, once.

Attention runs our forward and backward kernels. Host steps are run by torch, which differentiates
them; evaluation runs the compiled session.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hocket.fl.backends.batching import (
    at_own_size,
    filled,
    find_batch_sizes,
    size_for,
)
from hocket.fl.backends.cuts import check_span, find_cuts
from hocket.fl.backends.footprint import Work, footprint_of
from hocket.fl.backends.fusion import fuse
from hocket.fl.backends.inference import as_inference_artifact
from hocket.fl.backends.optimizer import (
    finish_step,
    make_optimizer,
    optimizer_arrays,
    restore_optimizer,
)
from hocket.fl.backends.program import make_program
from hocket.fl.backends.task import (
    Measured,
    Task,
    check_targets,
    find_constants,
    measure,
    metrics_of,
)
from hocket.fl.backends.training_graph import (
    as_input,
    empty_inputs,
    find_statistics,
    read_steps,
    to_tensor,
    with_steps,
)
from hocket.fl.core.backend import (
    BF16,
    EVALUATE,
    FOOTPRINT,
    INPUT_GRADIENT,
    TRAIN,
    WHOLE,
    Footprint,
    LocalTraining,
    Result,
    Span,
)
from hocket.fl.core.errors import CapabilityError, ConfigError, FederationError
from hocket.fl.core.parameters import check_alike
from hocket.runtime.session import InferenceSession, SessionOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.backends.batching import Sized
    from hocket.fl.backends.cuts import Cut
    from hocket.fl.backends.exits import ExitHead
    from hocket.fl.backends.program import TrainingProgram
    from hocket.fl.core.data import Examples
    from hocket.fl.core.parameters import Parameters
    from hocket.hwmodels.machine import HardwareModel
    from hocket.runtime.artifact import Artifact


class CompiledBackend:
    """Trains, evaluates and differentiates a compiled model.

    The first axis of every input is that of the examples. An artifact that was compiled for one
    batch size trains smaller batches too, filled up with examples that do not count; to waste
    nothing leave the batch open, ``hocket.compile(..., dims={"batch": (1, 64)})``.

    Its parameters are the artifact's weights: floating-point arrays of more than one number, by
    their names in the ONNX file. Compile a file in which they are those of the model: exporters
    fold and merge them unless told that it is for training.

    Args:
        artifact: The compiled model.
        task: What it is trained to do.
        frozen: Patterns of names, as of files, of weights that stay as they are and are no
            parameters: tables of positions, say. Arrays with infinite numbers always are.
        num_threads: Threads of the session that evaluates; 0 for as many as torch has.

    Raises:
        CapabilityError: The model has an operator that is not supported, or is not written so
            that it can be trained.
        ConfigError: The task's output or a pattern matches nothing.
    """

    capabilities = frozenset({TRAIN, EVALUATE, INPUT_GRADIENT, FOOTPRINT})

    def __init__(
        self,
        artifact: Artifact,
        task: Task = Task(),  # noqa: B008 - frozen
        *,
        frozen: Sequence[str] = (),
        num_threads: int = 0,
    ) -> None:
        self._artifact, self._task, self._num_threads = artifact, task, num_threads
        outputs = [spec.name for spec in artifact.signature.outputs]
        self._output = task.output or outputs[0]
        if self._output not in outputs:
            raise ConfigError(f"the model has no output {self._output!r}; it has {outputs}")
        self._batch_sizes = find_batch_sizes(artifact)
        steps = read_steps(artifact)
        ranks = {name: array.ndim for name, array in artifact.weights.items()}
        self._graphs = tuple(fuse(step, ranks) for step in steps)
        self._statistics = find_statistics(self._graphs)
        self._tensors = {name: to_tensor(array) for name, array in artifact.weights.items()}
        constants = find_constants(artifact.weights, frozen)
        used = {name for graph in self._graphs for node in graph.nodes for name in node.inputs}
        self._names = [name for name in self._tensors if name in used - constants]
        self._trained = [name for name in self._names if name not in self._statistics]
        for name in self._trained:
            self._tensors[name].requires_grad_()
        self._generator = torch.Generator()
        self._programs: dict[Any, TrainingProgram] = {}
        self._sizes: dict[Any, Sized] = {}
        self._heads: dict[str, ExitHead] = {}
        self._cuts: list[Cut] = []
        self._session: InferenceSession | None = None
        self._is_session_current = False
        # Finds an operator that is missing now and not in the midst of a round.
        self._program(at_own_size(artifact), is_training=True)

    @property
    def artifact(self) -> Artifact:
        """What it was made from."""
        return self._artifact

    @property
    def task(self) -> Task:
        """What it is trained to do."""
        return self._task

    @property
    def statistics(self) -> frozenset[str]:
        """Parameters that are running statistics: to be averaged, and never optimised."""
        return self._statistics & frozenset(self._names)

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters, statistics among them."""
        return {name: self._array(name).copy() for name in self._names}

    def load_parameters(self, parameters: Parameters) -> None:
        """Take on parameters, whose names, element types and shapes are those of its own.

        Raises:
            UpdateError: They are not, or are not finite; nothing has changed then.
        """
        check_alike(parameters, {name: self._array(name) for name in self._names}, "parameters")
        self._is_session_current = False
        for name in self._names:
            self._array(name)[...] = parameters[name]

    def train(
        self,
        training: LocalTraining,
        examples: Examples,
        seed: int,
        optimizer_state: Parameters | None = None,
    ) -> Result:
        """Train from the parameters it has, with a new optimizer or one that goes on.

        The same parameters, examples, seed, state and number of threads give the same bits. Metrics
        are means over the last epoch, each batch measured before its step.

        Raises:
            ConfigError: There are no examples, their targets do not go with the model, or batches
                are too large for it.
            CapabilityError: There is nothing to train, or a batch would have to be filled up and
                the model normalises by batches.
            FederationError: The loss is no longer finite. Parameters have changed by then.
            UpdateError: The optimizer's state is of other parameters.
        """
        self._check_examples(examples, training.batch_size)
        self._check_fills(training.batch_size, examples)
        if not self._trained:
            raise CapabilityError(
                "the model has no weights to train: all are frozen, or none is an initializer of "
                "float16, float32 or float64"
            )
        self._generator.manual_seed(seed)
        order = np.random.default_rng(seed)
        leaves = [self._tensors[name] for name in self._trained]
        start = [leaf.detach().clone() for leaf in leaves] if training.proximal_mu else []
        optimizer = make_optimizer(training, leaves)
        if optimizer_state:
            restore_optimizer(optimizer, self._trained, optimizer_state)
        num_steps, sums = 0, [0.0, 0, 0]
        self._is_session_current = False
        for _ in range(training.epochs):
            if training.max_steps and num_steps == training.max_steps:
                break
            sums = [0.0, 0, 0]
            for batch in examples.batches(training.batch_size, order):
                if training.max_steps and num_steps == training.max_steps:
                    break
                with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == BF16):
                    found = self._differentiate(batch, is_training=True)
                loss = found.loss.item()
                if not math.isfinite(loss):
                    raise FederationError(
                        f"the loss is {loss} at step {num_steps}; lower the learning rate "
                        f"({training.learning_rate}) or clip gradients"
                    )
                finish_step(optimizer, leaves, start, training, num_steps)
                num_steps += 1
                _add(sums, found, loss)
        for leaf in leaves:
            leaf.grad = None
        kept = optimizer_arrays(optimizer, self._trained) if training.keep_optimizer else {}
        metrics = metrics_of(self._task, *sums)  # type: ignore[arg-type]
        return Result(len(examples), metrics, num_steps, kept)

    def evaluate(self, examples: Examples, batch_size: int = 256) -> Result:
        """Measure the model it has, by the compiled session.

        Batches are as large as the artifact takes, if that is less than ``batch_size``.

        Raises:
            ConfigError: There are no examples, or their targets do not go with the model.
        """
        batch_size = min(batch_size, self._batch_sizes.most)
        self._check_examples(examples, batch_size)
        session = self._current_session()
        sums: list[Any] = [0.0, 0, 0]
        for batch in examples.batches(batch_size):
            whole = self._filled(batch)
            (scores,) = session.run([self._output], dict(whole.inputs))
            with torch.no_grad():
                found = measure(self._task, to_tensor(scores), whole.targets)
            _add(sums, found, found.loss.item())
        return Result(len(examples), metrics_of(self._task, *sums))

    def input_gradient(self, examples: Examples, input_name: str) -> NDArray[Any]:
        """Return the gradient of the mean loss by an input, in that input's shape.

        The model behaves as in evaluation.

        Raises:
            CapabilityError: There is no such input, or it holds no floating-point numbers.
            ConfigError: There are no examples, or their targets do not go with the model.
        """
        array = examples.inputs.get(input_name)
        if array is None or array.dtype.kind != "f":
            raise CapabilityError(
                f"input {input_name!r} is "
                + ("not there" if array is None else f"of {array.dtype}, which has no gradient")
            )
        batch_size = min(len(examples), self._batch_sizes.most) or 1
        self._check_examples(examples, batch_size)
        parts, total = [], 0
        for batch in examples.batches(batch_size):
            gradient, num_counted = self._input_gradient(batch, input_name)
            parts.append(gradient * num_counted)
            total += num_counted
        found: NDArray[Any] = np.concatenate(parts) / max(total, 1)
        return found.astype(array.dtype)

    def footprint(
        self, machine: HardwareModel, training: LocalTraining, span: Span = WHOLE
    ) -> Footprint:
        """Return what it takes to train a span of the model on a machine.

        Open dimensions other than the batch have the sizes in the artifact's ``dims``. What comes
        before the span runs without being differentiated, somewhere else.

        Raises:
            ConfigError: There is no such span, or batches are too large for the artifact.
        """
        self._check_span(span)
        self._batch_sizes.check(training.batch_size)
        sized = at_own_size(self._artifact, max(training.batch_size, self._batch_sizes.least))
        work = Work(
            program=self._program(sized, is_training=True),
            steps=sized.steps,
            planned=self._artifact.steps,
            weights=self._tensors,
            trained=frozenset(name for name in self._names if name not in self._statistics),
            inputs=tuple(spec.name for spec in sized.signature.inputs),
            scores=self._output,
            heads=self._heads,
        )
        is_planned_for = machine == self._artifact.target
        return footprint_of(work, machine, training, span, is_planned_for=is_planned_for)

    def _check_span(self, span: Span) -> None:
        if span == WHOLE:
            return
        if not self._cuts:
            whole = self._program(at_own_size(self._artifact), is_training=True)
            self._cuts = find_cuts(whole, self._tensors, self._output)
        check_span(span, self._cuts, self._heads)

    def _array(self, name: str) -> NDArray[Any]:
        """Return a tensor's own memory."""
        array: NDArray[Any] = self._tensors[name].detach().numpy()
        return array

    def _check_examples(self, examples: Examples, batch_size: int) -> None:
        if len(examples) == 0:
            raise ConfigError("there are no examples")
        self._batch_sizes.check(batch_size)
        first = self._filled(examples.take(slice(0, min(batch_size, len(examples)))))
        shapes = {spec.name: spec.shape for spec in self._size_for(first).signature.outputs}
        check_targets(self._task, examples.targets, shapes[self._output])

    def _check_fills(self, batch_size: int, examples: Examples) -> None:
        least = self._batch_sizes.least
        rest = len(examples) % batch_size
        if self._statistics and (batch_size < least or 0 < rest < least):
            raise CapabilityError(
                f"{len(examples)} examples in batches of {batch_size} have to be filled up, since "
                f"the artifact is compiled for {self._batch_sizes}, and its batch normalisation "
                "would see what they are filled with; leave the batch open when compiling"
            )

    def _filled(self, batch: Examples) -> Examples:
        return filled(batch, self._batch_sizes.least, self._task.ignored)

    def _size_for(self, whole: Examples) -> Sized:
        """Return the artifact in the sizes of a batch, worked out once for each."""
        key = tuple((name, each.dtype.str, each.shape) for name, each in whole.inputs.items())
        if key not in self._sizes:
            self._sizes[key] = size_for(self._artifact, whole)
        return self._sizes[key]

    def _program(self, sized: Sized, *, is_training: bool) -> TrainingProgram:
        key = (sized.dims, is_training)
        if key not in self._programs:
            self._programs[key] = make_program(
                with_steps(self._graphs, sized),
                sized.tensors,
                {**empty_inputs(sized), **self._tensors},
                [self._output],
                is_training=is_training,
                generator=self._generator,
            )
        return self._programs[key]

    def _differentiate(self, batch: Examples, *, is_training: bool) -> Measured:
        """Measure a batch and leave the gradients with the parameters."""
        whole = self._filled(batch)
        program = self._program(self._size_for(whole), is_training=is_training)
        inputs = {name: as_input(array) for name, array in whole.inputs.items()}
        for name in self._trained:  # before the activations need room
            self._tensors[name].grad = None
        scores = program.run({**self._tensors, **inputs})[self._output]
        found = measure(self._task, scores, whole.targets)
        del scores
        found.loss.backward()  # type: ignore[no-untyped-call]
        return found

    def _input_gradient(self, batch: Examples, name: str) -> tuple[NDArray[Any], int]:
        whole = self._filled(batch)
        program = self._program(self._size_for(whole), is_training=False)
        inputs = {each: as_input(array) for each, array in whole.inputs.items()}
        wanted = inputs[name].requires_grad_()
        weights = {each: tensor.detach() for each, tensor in self._tensors.items()}
        scores = program.run({**weights, **inputs})[self._output]
        found = measure(self._task, scores, whole.targets)
        (gradient,) = torch.autograd.grad(found.loss, [wanted])
        return gradient.numpy()[: len(batch)], found.num_counted

    def _current_session(self) -> InferenceSession:
        if self._session is None:
            options = SessionOptions(
                intra_op_num_threads=self._num_threads or torch.get_num_threads()
            )
            self._session = InferenceSession(as_inference_artifact(self._artifact), options)
        if not self._is_session_current:
            self._session.update_weights(
                {name: self._array(name) for name in self._artifact.weights}
            )
            self._is_session_current = True
        return self._session


def _add(sums: list[Any], found: Measured, loss: float) -> None:
    sums[0] += loss * found.num_counted
    sums[1] += found.num_counted
    sums[2] += found.num_right
