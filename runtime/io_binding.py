"""Arrays that a session reads and writes where they lie, run after run, as onnxruntime has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.errors import FeedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class IOBinding:
    """Inputs and outputs of a session, bound to arrays of the caller.

    Made by ``InferenceSession.io_binding`` and run by ``run_with_iobinding``. For decoding: a cache
    of keys and values of fixed size is bound once, as input and, where the model writes it in
    place, as output of the same array.

    Attributes:
        inputs: Arrays by input name.
        bound_outputs: Arrays to write to, by output name.
        outputs: All outputs of the last run, in the session's order.

    Example:
        >>> binding = session.io_binding()  # doctest: +SKIP
        >>> binding.bind_cpu_input("token", token)  # doctest: +SKIP
        >>> binding.bind_output("logits", logits)  # doctest: +SKIP
        >>> session.run_with_iobinding(binding)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self.bound_outputs: dict[str, NDArray[Any]] = {}
        self.outputs: list[NDArray[Any]] = []

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input, which each run reads anew. C-contiguous arrays are not copied."""
        self.inputs[name] = array

    def bind_output(self, name: str, array: NDArray[Any]) -> None:
        """Bind an output to an array of its exact type and shape, which each run writes to.

        Raises:
            FeedError: It is no numpy array. (Whether it fits, the run says.)
        """
        if not isinstance(array, np.ndarray):
            raise FeedError(f"output {name!r}: want a numpy array, got {type(array).__name__}")
        self.bound_outputs[name] = array

    def get_outputs(self) -> list[NDArray[Any]]:
        """Return the outputs of the last run: bound arrays, and new ones for those not bound."""
        return list(self.outputs)

    def copy_outputs_to_cpu(self) -> list[NDArray[Any]]:
        """Return copies of the outputs of the last run."""
        return [array.copy() for array in self.outputs]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self.inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self.bound_outputs.clear()
