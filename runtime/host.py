"""Host steps: ONNX run by onnxruntime, on arrays of ours, without a copy at the border.

The only file of the runtime that loads onnxruntime.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.errors import ArtifactError, HostStepError
from hocket.runtime.sharing import is_worth_sharing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


class HostModel:
    """The host steps of an artifact, loaded into one onnxruntime session.

    Args:
        artifact: Whose steps; onnxruntime copies the weights.
        num_threads: Threads to work with.

    Raises:
        ArtifactError: onnxruntime does not take the model, or it does not fit the steps.
    """

    def __init__(self, artifact: Artifact, num_threads: int) -> None:
        import onnxruntime

        self._turn = artifact.host_turn
        self._turns = {step.name: turn for turn, step in enumerate(artifact.host_steps)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings speak of node names the user never wrote
        if any(is_worth_sharing(step, has_host=True) for step in artifact.steps):
            # Between two turns the threads would spin for work that does not come, on cores that
            # our kernels need. Where no kernel needs them, they had better be awake.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        # A product with dequantised weights may be rewritten to one that rounds the activations to
        # int8 as well; level 1 keeps those in float32, as the model says.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        names = list(artifact.weights)
        if names:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(artifact.weights[n]) for n in names]
            options.add_external_initializers(names, values)
        # An artifact may come from a stranger. A model from memory may name files for its weights,
        # and would read them from the working directory: point it to an empty folder instead.
        with tempfile.TemporaryDirectory(prefix="hocket-empty-") as empty:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", empty
            )
            try:
                self._session = onnxruntime.InferenceSession(
                    artifact.host_model,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=list(SLOW_FUSIONS),
                    enable_fallback=False,  # it would try again, and print to standard output
                )
            except Exception as error:  # its errors share no other base
                raise ArtifactError(f"onnxruntime refuses the host model: {error}") from error
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._check(artifact)

    def new_binding(self, step: HostStep, tensors: Mapping[str, TensorSpec]) -> HostBinding:
        """Return a binding of its own for a step; one thread may use it at a time.

        Args:
            step: One of the artifact's.
            tensors: What its tensors are, in the sizes they are to have.
        """
        # The model's inputs that belong to other steps; it wants them all the same.
        others = self._inputs - {self._turn} - set(step.inputs)
        unread = [tensors[name] for name in sorted(others)]
        return HostBinding(self._session, step, self._turn, self._turns[step.name], unread)

    def _check(self, artifact: Artifact) -> None:
        known = {self._turn, *(name for step in artifact.host_steps for name in step.inputs)}
        outputs = {each.name for each in self._session.get_outputs()}
        made = {name for step in artifact.host_steps for name in step.model_outputs}
        if not self._inputs <= known or not made <= outputs:
            odd = sorted((self._inputs - known) | (made - outputs))
            raise ArtifactError(f"the host model and the host steps do not fit together: {odd}")


class HostBinding:
    """A host step with arrays to read and write, ready to run."""

    def __init__(
        self,
        session: Any,
        step: HostStep,
        turn_name: str,
        turn: int,
        unread: Iterable[TensorSpec],
    ) -> None:
        self._session = session
        self._name = step.name
        self._binding = session.io_binding()
        self._inputs = {each.name for each in session.get_inputs()} & set(step.inputs)
        self._outputs = dict(zip(step.outputs, step.model_outputs, strict=True))
        # One shared stretch of memory stands in for what other steps read; nobody looks at it.
        specs = list(unread)
        self._unread = np.zeros(max((spec.nbytes for spec in specs), default=0), np.uint8)
        self._turn = np.array(turn, np.int64)
        if turn_name:
            self._bind_input(turn_name, self._turn)
        for spec in specs:
            part = self._unread[: spec.nbytes].view(spec.dtype.to_numpy()).reshape(spec.shape)
            self._bind_input(spec.name, part)

    def bind(self, arrays: Mapping[str, NDArray[Any]], names: Iterable[str]) -> None:
        """Make it read and write these arrays where they lie; others stay as bound before.

        Args:
            arrays: C-contiguous arrays by tensor name; the caller keeps them alive.
            names: Which of them to bind; names this step does not know are passed over.
        """
        for name in names:
            array = arrays[name]
            if name in self._inputs:
                self._bind_input(name, array)
            elif name in self._outputs:
                element = _element_type(array)
                self._binding.bind_output(
                    self._outputs[name], "cpu", 0, element, array.shape, array.ctypes.data
                )

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

    def _bind_input(self, name: str, array: NDArray[Any]) -> None:
        element = _element_type(array)
        self._binding.bind_input(name, "cpu", 0, element, array.shape, array.ctypes.data)


def _element_type(array: NDArray[Any]) -> Any:
    """Return the element type of an array as bindings want it: numpy's, or ONNX's number."""
    return _ONNX_BFLOAT16 if array.dtype.name == "bfloat16" else array.dtype
