"""Host steps: ONNX run by onnxruntime, on arrays of ours, without a copy at the border.

The only file of the runtime that loads onnxruntime.
"""

from __future__ import annotations

import functools
import tempfile
from typing import TYPE_CHECKING, Any

from hocket.runtime.errors import ArtifactError, HostStepError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from hocket.runtime.steps import HostStep

SLOW_FUSIONS = ("SkipLayerNormFusion",)
"""Rewrites of onnxruntime that make its CPU kernels slower.

Its fused skip-and-normalise kernel took 0.24 ms on [128, 384] float32 where Add and
LayerNormalization together took 0.06 (onnxruntime 1.32, one Zen 5 core). On a whole model the
rewrite rarely applies, because shapes are not known; in our regions they are.
"""


class HostRunner:
    """One host step, loaded into onnxruntime.

    Args:
        step: The step.
        weights: Its larger initializers, by name; onnxruntime copies them.
        num_threads: Threads to work with.

    Raises:
        ArtifactError: onnxruntime does not take the model.
    """

    def __init__(
        self, step: HostStep, weights: Mapping[str, NDArray[Any]], num_threads: int
    ) -> None:
        import onnxruntime

        self.step = step
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings speak of node names the user never wrote
        # Several sessions run one after the other. Threads that sleep between operators cost a
        # third of a small model's speed, threads that spin on after their step's turn take the
        # cores from the next step: spin briefly, and stop when the step ends.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # An artifact may come from a stranger. A model from memory may name files for its weights,
        # and would read them from the working directory: point it to an empty folder instead.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", _empty_folder()
        )
        names = list(step.weights)
        if names:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
            options.add_external_initializers(names, values)
        try:
            self._session = onnxruntime.InferenceSession(
                step.model,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(SLOW_FUSIONS),
                enable_fallback=False,  # it would try again, and print to standard output
            )
        except Exception as error:  # its errors share no other base
            raise ArtifactError(f"step {step.name!r}: onnxruntime refuses it: {error}") from error
        found = tuple(each.name for each in self._session.get_inputs())
        if set(found) - set(step.inputs):
            raise ArtifactError(f"step {step.name!r}: its model reads {found}, not {step.inputs}")

    def new_binding(self) -> HostBinding:
        """Return a binding of its own; one thread may use it at a time."""
        return HostBinding(self._session, self.step)


class HostBinding:
    """A host step with arrays to read and write, ready to run."""

    def __init__(self, session: Any, step: HostStep) -> None:
        self._session = session
        self._name = step.name
        self._binding = session.io_binding()
        self._inputs = {each.name for each in session.get_inputs()} & set(step.inputs)
        self._outputs = set(step.outputs)

    def bind(self, arrays: Mapping[str, NDArray[Any]], names: Iterable[str]) -> None:
        """Make it read and write these arrays where they lie; others stay as bound before.

        Args:
            arrays: C-contiguous arrays by tensor name; the caller keeps them alive.
            names: Which of them to bind; names this step does not know are passed over.
        """
        for name in names:
            if name in self._inputs:
                array = arrays[name]
                self._binding.bind_input(
                    name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
                )
            elif name in self._outputs:
                array = arrays[name]
                self._binding.bind_output(
                    name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
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


@functools.cache
def _empty_folder() -> str:
    # Kept for the life of the process, and removed with it.
    _EMPTY.append(tempfile.TemporaryDirectory(prefix="hocket-empty-"))
    return _EMPTY[0].name


_EMPTY: list[tempfile.TemporaryDirectory[str]] = []
