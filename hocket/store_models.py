"""Compiled modules for the store's work that runs models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.backends.batching import find_batch_sizes
from hocket.fl.backends.exits import is_of_exit
from hocket.fl.backends.inference import as_inference_artifact
from hocket.fl.core.errors import ConfigError
from hocket.runtime.artifact import parse_artifact
from hocket.runtime.errors import ArtifactError, FeedError
from hocket.runtime.session import InferenceSession, SessionOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters

_BATCH = 256


class CompiledModel:
    """Runs a compiled module with one set of parameters after the other; see ``Model``.

    Args:
        module: The bytes of its file.

    Raises:
        ConfigError: It is none, or takes no batches.
    """

    def __init__(self, module: memoryview) -> None:
        try:
            artifact = as_inference_artifact(parse_artifact(bytes(module)))
        except ArtifactError as error:
            raise ConfigError(f"the module {error}") from error
        sizes = find_batch_sizes(artifact)
        self._least, self._most = sizes.least, min(sizes.most, max(sizes.least, _BATCH))
        self._weights = artifact.weights
        self._session = InferenceSession(artifact, SessionOptions(intra_op_num_threads=1))

    def outputs(self, parameters: Parameters, inputs: Parameters) -> dict[str, NDArray[Any]]:
        """Return what the module says to examples; the last batch is filled up, if it must be.

        Parameters of early exits, which are trained beside a module, are left alone.
        """
        unknown = sorted(
            name for name in parameters if name not in self._weights and not is_of_exit(name)
        )
        if unknown:
            raise ConfigError(f"the module has no parameters {', '.join(unknown[:3])}")
        try:
            own = {name: each for name, each in parameters.items() if name in self._weights}
            self._session.update_weights({**self._weights, **own})
            return self._run(inputs)
        except FeedError as error:
            raise ConfigError(f"the module takes others: {error}") from error

    def _run(self, inputs: Parameters) -> dict[str, NDArray[Any]]:
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1 or counts == {0}:
            raise ConfigError("want the same number of examples for each input, 1 or more")
        (count,) = counts
        names = [spec.name for spec in self._session.get_outputs()]
        parts = []
        for start in range(0, count, self._most):
            batch = {name: array[start : start + self._most] for name, array in inputs.items()}
            size = min(self._most, count - start)
            lacking = self._least - size
            if lacking > 0:
                batch = {
                    name: np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)])
                    for name, array in batch.items()
                }
            found = self._session.run(names, batch)
            parts.append([array[:size] for array in found])
        columns = zip(*parts, strict=True)
        return {name: np.concatenate(column) for name, column in zip(names, columns, strict=True)}


def make_model(module: memoryview) -> CompiledModel:
    """Return what runs a module; see ``MakeModel``."""
    return CompiledModel(module)
