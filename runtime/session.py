"""Running a compiled module, by onnxruntime's conventions."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.artifact import Artifact, load_artifact
from hocket.runtime.cpu import usable_cores
from hocket.runtime.errors import ArtifactError, FeedError
from hocket.runtime.host import HostSessions
from hocket.runtime.io_binding import IOBinding
from hocket.runtime.profile import Profile, write_trace
from hocket.runtime.signature import OpenSpec
from hocket.runtime.sized import SizedExecutors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.runtime.signature import TensorSpec

PROVIDERS = ("CPUExecutionProvider",)


@dataclass
class SessionOptions:
    """Options of a session, set as attributes the way onnxruntime's are.

    Attributes:
        intra_op_num_threads: Threads for kernels and host regions; 0 for what the module was
            compiled for, and failing that one for each core this process may use.
        enable_profiling: Whether to time every step of every run, for ``end_profiling``.
        profile_file_prefix: Path that the name of the profile begins with.
    """

    intra_op_num_threads: int = 0
    enable_profiling: bool = False
    profile_file_prefix: str = "hocket_profile_"


class InferenceSession:
    """Runs a compiled module.

    May be used from several threads at once; runs that overlap each hold memory of their own.

    Args:
        path_or_artifact: Path of a ``.hkt`` file, or an artifact in memory.
        sess_options: Threads and profiling.
        providers: For those who come from onnxruntime; ``CPUExecutionProvider`` is all there is.
        expected_digest: Refuse the module if its digest is another.

    Raises:
        ArtifactError: The module cannot be read or is not the expected one.
        ValueError: An option is out of range, or a provider is unknown.

    Example:
        >>> session = InferenceSession("model.hkt")  # doctest: +SKIP
        >>> outputs = session.run(None, {"input_ids": ids})  # doctest: +SKIP
    """

    def __init__(
        self,
        path_or_artifact: str | os.PathLike[str] | Artifact,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str] | None = None,
        *,
        expected_digest: str | None = None,
    ) -> None:
        options = sess_options or SessionOptions()
        if options.intra_op_num_threads < 0:
            raise ValueError(
                f"intra_op_num_threads must be 0 or more, got {options.intra_op_num_threads}"
            )
        for provider in providers or ():
            if provider not in PROVIDERS:
                raise ValueError(f"unknown provider {provider!r}; there is {PROVIDERS[0]!r}")
        artifact = _as_artifact(path_or_artifact, expected_digest)
        num_threads = options.intra_op_num_threads or artifact.num_threads or usable_cores()
        self._options = options
        self._source: str | os.PathLike[str] | Artifact = path_or_artifact
        # Of a file it is at hand already; what is in memory cannot become another.
        self._digest = None if artifact is path_or_artifact else artifact.digest
        host = HostSessions(artifact, num_threads) if artifact.host_steps else None
        self._executors = SizedExecutors(artifact, host, num_threads)
        # Gives back the weights of a file, which onnxruntime has copied, before the compiler of the
        # kernels takes its share: that is when memory peaks.
        del artifact
        self._first = self._executors.start()
        self._lock = threading.Lock()
        self._profiles: list[Profile] = []
        weakref.finalize(self, self._executors.close)

    @property
    def num_threads(self) -> int:
        """Threads it works with."""
        return self._first.num_threads

    @property
    def context_bytes(self) -> int:
        """Bytes a run holds besides weights, inputs and outputs, onnxruntime's own not counted.

        Of a module for any size, those of a run at the sizes it was planned for.
        """
        return self._first.context_bytes

    def predict_run_bytes(self, dims: Mapping[str, int] | None = None) -> int:
        """Return the bytes that one run takes: its context, and the outputs it makes.

        What onnxruntime takes inside a host step is its own, and not in it.

        Args:
            dims: Sizes of open dimensions; those not named have the size they were planned for.

        Raises:
            FeedError: There is no such open dimension, or its size is out of range.
        """
        executor = self._executors.sized(dims or {})
        return executor.context_bytes + sum(spec.nbytes for spec in executor.signature.outputs)

    def get_providers(self) -> list[str]:
        """Return the providers in use, as onnxruntime does: there is one."""
        return list(PROVIDERS)

    def get_inputs(self) -> list[TensorSpec | OpenSpec]:
        """Return the inputs; each has ``name``, ``type`` and ``shape``."""
        return self._shown(self._executors.signature.inputs)

    def get_outputs(self) -> list[TensorSpec | OpenSpec]:
        """Return the outputs; each has ``name``, ``type`` and ``shape``."""
        return self._shown(self._executors.signature.outputs)

    @property
    def open_dims(self) -> dict[str, tuple[int, int]]:
        """The least and the largest size of each dimension that is open."""
        resizing = self._executors.resizing
        return {} if resizing is None else dict(resizing.dims)

    def sized_inputs(self, dims: Mapping[str, int] | None = None) -> tuple[TensorSpec, ...]:
        """Return the inputs with every size a number.

        Args:
            dims: Sizes of open dimensions; others have those the module was planned for.

        Raises:
            FeedError: There is no such open dimension, or its size is out of range.
        """
        return self._executors.inputs(dims or {})

    def _shown(self, specs: tuple[TensorSpec, ...]) -> list[TensorSpec | OpenSpec]:
        resizing = self._executors.resizing
        if resizing is None:
            return list(specs)
        return [
            OpenSpec(
                spec.name,
                spec.dtype,
                tuple(
                    size if isinstance(size, int) else str(size)
                    for size in resizing.shape(spec.name)
                ),
            )
            for spec in specs
        ]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, NDArray[Any]],
        run_options: None = None,  # noqa: ARG002 - onnxruntime's signature
    ) -> list[NDArray[Any]]:
        """Run the module.

        Args:
            output_names: Outputs to return, in this order; None for all.
            input_feed: An array for every input, of its exact element type and shape. Of a module
                for any size, the first run with some sizes plans for them.
            run_options: Not used.

        Returns:
            One newly allocated array for each output asked for.

        Raises:
            FeedError: A name, element type or shape does not match the signature.
        """
        outputs, profile = self._run(output_names, input_feed, self._options.enable_profiling)
        if profile is not None:
            with self._lock:
                self._profiles.append(profile)
        return outputs

    def update_weights(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Run with other weights from now on: other numbers, the same compilation.

        Kernels and plans are kept; onnxruntime loads the host steps anew, with copies of the
        arrays. A session of a file reads that again. Runs that are under way end with the weights
        they began with.

        Args:
            arrays: One for each of the artifact's ``weights``, of its type and shape.

        Raises:
            FeedError: A name is missing or unknown, or an array has another type or shape; nothing
                has changed then.
            ArtifactError: The file is gone, or is another one now.
        """
        artifact = _as_artifact(self._source, self._digest)
        _check_weights(arrays, artifact.weights)
        if artifact.host_steps:
            copies = {name: np.array(array, order="C") for name, array in arrays.items()}
            self._executors.replace_host(HostSessions(artifact, self.num_threads, copies))

    def io_binding(self) -> IOBinding:
        """Return a binding to arrays that runs read and write where they lie."""
        return IOBinding()

    def run_with_iobinding(
        self,
        iobinding: IOBinding,
        run_options: None = None,  # noqa: ARG002 - onnxruntime's signature
    ) -> None:
        """Run the module on bound arrays. Nothing is allocated for outputs that are bound.

        Raises:
            FeedError: A name, element type or shape does not match the signature, or an array to
                write to cannot be.
        """
        outputs, profile = self._run(
            None, iobinding.inputs, self._options.enable_profiling, iobinding.bound_outputs
        )
        iobinding.outputs = outputs
        if profile is not None:
            with self._lock:
                self._profiles.append(profile)

    def profile(self, input_feed: Mapping[str, NDArray[Any]]) -> Profile:
        """Run the module once and return what each step took.

        Raises:
            FeedError: As ``run``.
        """
        _, profile = self._run(None, input_feed, profiled=True)
        if profile is None:
            raise RuntimeError("a profiled run left no profile")
        return profile

    def end_profiling(self) -> str:
        """Write the runs since the session began as trace-viewer JSON and return the file's name.

        Raises:
            ValueError: Profiling was not enabled.
        """
        if not self._options.enable_profiling:
            raise ValueError("profiling is off; set SessionOptions.enable_profiling")
        prefix = Path(self._options.profile_file_prefix)
        handle, name = tempfile.mkstemp(
            dir=prefix.parent, prefix=prefix.name, suffix=".json", text=True
        )
        os.close(handle)
        with self._lock:
            profiles, self._profiles = self._profiles, []
        write_trace(profiles, Path(name))
        return name

    def _run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, NDArray[Any]],
        profiled: bool,
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[list[NDArray[Any]], Profile | None]:
        executors = self._executors
        positions = executors.signature.select_outputs(output_names)
        executor = executors.find(input_feed)
        if given is not None:
            executor.signature.check_outputs(given)
        feeds = {name: np.ascontiguousarray(array) for name, array in input_feed.items()}
        # ascontiguousarray makes a scalar rank 1.
        feeds = {
            spec.name: feeds[spec.name].reshape(spec.shape) for spec in executor.signature.inputs
        }
        context = executors.take(executor)
        try:
            outputs, profile = context.run(feeds, profiled, given)
        finally:
            executors.give_back(executor, context)
        return [outputs[position] for position in positions], profile


def _as_artifact(
    path_or_artifact: str | os.PathLike[str] | Artifact, expected_digest: str | None
) -> Artifact:
    if not isinstance(path_or_artifact, Artifact):
        return load_artifact(path_or_artifact, expected_digest)
    if expected_digest is not None and path_or_artifact.digest != expected_digest:
        raise ArtifactError(
            f"{path_or_artifact}: has digest {path_or_artifact.digest}, want {expected_digest}"
        )
    return path_or_artifact


def _check_weights(arrays: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> None:
    if arrays.keys() != wanted.keys():
        missing, unknown = (
            sorted(wanted.keys() - arrays.keys()),
            sorted(arrays.keys() - wanted.keys()),
        )
        raise FeedError(f"weights: missing {missing}, unknown {unknown}")
    for name, like in wanted.items():
        array = arrays[name]
        if array.dtype != like.dtype or array.shape != like.shape:
            raise FeedError(
                f"weight {name!r}: want {like.dtype} of shape {list(like.shape)}, "
                f"got {array.dtype} of {list(array.shape)}"
            )
