"""Host steps: ONNX run by onnxruntime, on arrays of ours, without a copy at the border.

The only file of the runtime that loads onnxruntime.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType
from hocket.runtime.errors import ArtifactError, HostStepError
from hocket.runtime.sharing import is_worth_sharing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import HostStep

_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16: numpy has no such type for a binding to know

SLOW_FUSIONS = ("SkipLayerNormFusion",)
"""Rewrites of onnxruntime that make its CPU kernels slower.

Its fused skip-and-normalise kernel took 0.24 ms on [128, 384] float32 where Add and
LayerNormalization together took 0.06 (onnxruntime 1.32, one Zen 5 core). On a whole model the
rewrite rarely applies, because shapes are not known; in our regions they are.
"""

_SPIN_MICROSECONDS = 400
"""How long threads of host steps stay awake for more work, where kernels want their cores, too.

At once asleep, they take some 50 us to wake with each step: a sentence encoder of three layers and
192 tokens takes 9 % longer on two cores, one of 384 tokens 1.5 % longer.
"""

_SPIN_MICROSECONDS_OF_MANY = 50
"""The same where there are several sessions, whose threads are soon in each other's way.

A text recogniser of three sessions takes 8 % less time so than with 400 us, on two cores.
"""


class HostSessions:
    """The host steps of an artifact, loaded into onnxruntime.

    Args:
        artifact: Whose steps; onnxruntime copies the weights.
        num_threads: Threads to work with.
        weights: In place of the artifact's, alike in names, types and shapes; None for its own.

    Raises:
        ArtifactError: Onnxruntime does not take a model, or it does not fit the steps.
    """

    def __init__(
        self,
        artifact: Artifact,
        num_threads: int,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        weights = artifact.weights if weights is None else weights
        spin_microseconds = _spin_microseconds(artifact)
        self._sessions = [
            _HostSession(artifact, number, num_threads, spin_microseconds, weights)
            for number in range(len(artifact.host_models))
        ]

    def new_binding(self, step: HostStep, tensors: Mapping[str, TensorSpec]) -> HostBinding:
        """Return a binding of its own for a step; one thread may use it at a time.

        Args:
            step: One of the artifact's.
            tensors: What its tensors are, in the sizes they are to have.
        """
        return self._sessions[step.model].new_binding(step, tensors)


def _spin_microseconds(artifact: Artifact) -> int | None:
    """Return how long threads stay awake for more work; None for as long as is onnxruntime's way.

    Between two turns they spin for work that does not come, on cores that kernels need, or threads
    of the next session. Where nobody else needs them, they had better be awake.
    """
    if len(artifact.host_models) > 1:
        return _SPIN_MICROSECONDS_OF_MANY
    if any(is_worth_sharing(step, has_host=True) for step in artifact.steps):
        return _SPIN_MICROSECONDS
    return None


class _HostSession:
    """An onnxruntime session for the host steps of one model."""

    def __init__(
        self,
        artifact: Artifact,
        number: int,
        num_threads: int,
        spin_microseconds: int | None,
        weights: Mapping[str, NDArray[Any]],
    ) -> None:
        import onnxruntime

        model = artifact.host_models[number]
        steps = [step for step in artifact.host_steps if step.model == number]
        self._turn = model.turn
        self._turns = {step.name: turn for turn, step in enumerate(steps)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings speak of node names the user never wrote
        if spin_microseconds is not None:
            options.add_session_config_entry(
                "session.intra_op.spin_duration_us", str(spin_microseconds)
            )
        # A product with dequantised weights may be rewritten to one that rounds the activations to
        # int8 as well; level 1 keeps those in float32, as the model says.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        names = list(model.weights)
        if names:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[n]) for n in names]
            options.add_external_initializers(names, values)
        # An artifact may come from a stranger. A model from memory may name files for its weights,
        # and would read them from the working directory: point it to an empty folder instead.
        with tempfile.TemporaryDirectory(prefix="hocket-empty-") as empty:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", empty
            )
            try:
                self._session = onnxruntime.InferenceSession(
                    model.content,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=list(SLOW_FUSIONS),
                    enable_fallback=False,  # it would try again, and print to standard output
                )
            except Exception as error:  # its errors share no other base
                raise ArtifactError(f"onnxruntime refuses host model {number}: {error}") from error
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._check(number, steps)

    def new_binding(self, step: HostStep, tensors: Mapping[str, TensorSpec]) -> HostBinding:
        # The model's inputs that belong to other steps; it wants them all the same.
        others = self._inputs - {self._turn} - set(step.inputs)
        unread = [tensors[name] for name in sorted(others)]
        inputs = [tensors[name] for name in step.inputs if name in self._inputs]
        outputs = {
            model_name: tensors[name]
            for name, model_name in zip(step.outputs, step.model_outputs, strict=True)
        }
        turn = {self._turn: self._turns[step.name]} if self._turn else {}
        return HostBinding(self._session, step.name, turn, inputs, outputs, unread)

    def _check(self, number: int, steps: Sequence[HostStep]) -> None:
        known = {self._turn, *(name for step in steps for name in step.inputs)}
        outputs = {each.name for each in self._session.get_outputs()}
        made = {name for step in steps for name in step.model_outputs}
        if not self._inputs <= known or not made <= outputs:
            odd = sorted((self._inputs - known) | (made - outputs))
            raise ArtifactError(f"host model {number} and its steps do not fit together: {odd}")


class HostBinding:
    """A host step with arrays to read and write, ready to run.

    Args:
        session: Onnxruntime's.
        name: Of the step.
        turn: The number of the step by the name of the input that wants it; empty with one step.
        inputs: What the step reads.
        outputs: What it writes, by the host model's names.
        unread: Inputs of the host model that belong to other steps.
    """

    def __init__(
        self,
        session: Any,
        name: str,
        turn: Mapping[str, int],
        inputs: Iterable[TensorSpec],
        outputs: Mapping[str, TensorSpec],
        unread: Iterable[TensorSpec],
    ) -> None:
        self._session = session
        self._name = name
        self._binding = session.io_binding()
        self._bound: dict[str, int] = {}
        self._inputs = {spec.name: _as_bound(spec) for spec in inputs}
        self._outputs = {
            spec.name: (model_name, *_as_bound(spec)) for model_name, spec in outputs.items()
        }
        # One shared stretch of memory stands in for what other steps read; nobody looks at it.
        specs = list(unread)
        self._unread = np.zeros(max((spec.nbytes for spec in specs), default=0), np.uint8)
        for spec in specs:
            self._bind_input(spec.name, *_as_bound(spec), self._unread.ctypes.data)
        self._turns = [np.array(number, np.int64) for number in turn.values()]
        for turn_name, number in zip(turn, self._turns, strict=True):
            self._bind_input(turn_name, number.dtype, (), number.ctypes.data)

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Make it read and write arrays where they lie; others stay as bound before.

        Args:
            addresses: Where C-contiguous arrays of the tensors' types and shapes begin, by tensor
                name; the caller keeps them alive. Names this step does not know are passed over.
        """
        for name, address in addresses.items():
            # Binding takes some microseconds, and a caller's arrays often lie where they lay.
            if self._bound.get(name) == address:
                continue
            if name in self._inputs:
                self._bind_input(name, *self._inputs[name], address)
            elif name in self._outputs:
                model_name, element, shape = self._outputs[name]
                self._binding.bind_output(model_name, "cpu", 0, element, shape, address)
            else:
                continue
            self._bound[name] = address

    def run(self) -> None:
        """Run the step.

        Raises:
            HostStepError: onnxruntime failed. Shapes are checked by then, so that is for values it
                cannot take, such as an index past the end of a table.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # its errors share no other base
            raise HostStepError(f"step {self._name!r}: onnxruntime failed: {error}") from error

    def _bind_input(self, name: str, element: Any, shape: tuple[int, ...], address: int) -> None:
        self._binding.bind_input(name, "cpu", 0, element, shape, address)


def _as_bound(spec: TensorSpec) -> tuple[Any, tuple[int, ...]]:
    """Return element type and shape as bindings want them: numpy's type, or ONNX's number."""
    is_bfloat16 = spec.dtype is DType.BFLOAT16
    return _ONNX_BFLOAT16 if is_bfloat16 else spec.numpy_dtype, spec.shape
