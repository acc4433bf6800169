"""Executors of one module by the sizes they are for, made when feeds first have them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from hocket.runtime.errors import FeedError, UnsupportedError
from hocket.runtime.executor import ExecutionContext, Executor
from hocket.runtime.resizing import resized_signature
from hocket.runtime.signature import no_open_dim

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.runtime.artifact import Artifact
    from hocket.runtime.host import HostSessions
    from hocket.runtime.signature import TensorSpec

MAX_SHAPES = 16
"""Combinations of sizes whose plans and memory are kept, those used last."""

MAX_IDLE_CONTEXTS = 4
"""Memory of so many runs of a combination is kept for the next ones; more is given back."""


class SizedExecutors:
    """All executors of a module; they share the host's session and the threads.

    May be used from several threads at once.

    Args:
        artifact: Whose steps; not kept, as its weights are large.
        host: Its host steps; None if it has none.
        num_threads: Threads for kernels and host steps alike.
    """

    def __init__(self, artifact: Artifact, host: HostSessions | None, num_threads: int) -> None:
        self.signature = artifact.signature
        self.resizing = artifact.resizing
        self.dims = dict(artifact.dims)
        self._steps = artifact.steps
        self._tensors = artifact.tensors
        self._host = host
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[int, ...], Executor] = OrderedDict()
        self._idle: dict[Executor, list[ExecutionContext]] = {}

    def start(self) -> Executor:
        """Return the executor for the module's own sizes, and make what a run needs of it."""
        executor = self._get({name: self.dims[name] for name in self._names})
        self.give_back(executor, self.take(executor))
        return executor

    def find(self, feeds: Mapping[str, NDArray[Any]]) -> Executor:
        """Return the executor for the sizes of these feeds, checked.

        Raises:
            FeedError: A name, element type or shape does not match the signature.
        """
        self.signature.check_names(feeds)
        if self.resizing is None:
            executor = self._get({})
        else:
            executor = self._get(self.resizing.read_dims(self.signature.inputs, feeds))
        executor.signature.check_feeds(feeds)
        return executor

    def sized(self, dims: Mapping[str, int]) -> Executor:
        """Return the executor for these sizes, the module's own for dimensions not named.

        Raises:
            FeedError: There is no such open dimension, or its size is out of range.
        """
        self._check_dims(dims)
        return self._get({name: dims.get(name, self.dims[name]) for name in self._names})

    def take(self, executor: Executor) -> ExecutionContext:
        """Return what one run needs of its own."""
        with self._lock:
            idle = self._idle.get(executor)
            context = idle.pop() if idle else None
        return context or executor.new_context()

    def give_back(self, executor: Executor, context: ExecutionContext) -> None:
        """Keep it for the next run."""
        with self._lock:
            idle = self._idle.setdefault(executor, [])
            is_kept = executor in self._made.values() and context.host is self._host
            if is_kept and len(idle) < MAX_IDLE_CONTEXTS:
                idle.append(context)

    def replace_host(self, host: HostSessions) -> None:
        """Let all runs from now on use other host steps; those under way end with what they have.

        Args:
            host: The same steps, with other weights.
        """
        with self._lock:
            self._host = host
            self._idle.clear()
            for executor in self._made.values():
                executor.host = host

    def inputs(self, dims: Mapping[str, int]) -> tuple[TensorSpec, ...]:
        """Return the inputs with the sizes of these dimensions, the module's own for the others.

        Raises:
            FeedError: There is no such open dimension, or its size is out of range.
        """
        self._check_dims(dims)
        if self.resizing is None:
            return self.signature.inputs
        sized = {**self.dims, **dims}
        tensors = self.resizing.resize_tensors(self._tensors, sized)
        return tuple(tensors[spec.name] for spec in self.signature.inputs)

    def close(self) -> None:
        """Stop the threads."""
        for executor in self._made.values():
            executor.close()

    def _check_dims(self, dims: Mapping[str, int]) -> None:
        spans = {} if self.resizing is None else self.resizing.dims
        for name, size in dims.items():
            if name not in spans:
                raise FeedError(no_open_dim(name, spans))
            low, high = spans[name]
            if not low <= size <= high:
                raise FeedError(f"dimension {name!r} must be {low} to {high}, got {size}")

    @property
    def _names(self) -> tuple[str, ...]:
        return () if self.resizing is None else tuple(self.resizing.dims)

    def _get(self, dims: Mapping[str, int]) -> Executor:
        key = tuple(dims[name] for name in self._names)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            pools = [each.pool for each in self._made.values() if each.pool is not None]
            executor = self._make({**self.dims, **dims}, pools[0] if pools else None)
            self._made[key] = executor
            while len(self._made) > MAX_SHAPES:
                oldest = next(iter(self._made))
                self._idle.pop(self._made.pop(oldest), None)
            return executor

    def _make(self, dims: Mapping[str, int], pool: Any) -> Executor:
        steps, signature, tensors = self._steps, self.signature, self._tensors
        if self.resizing is not None:
            try:
                steps = self.resizing.resize_steps(steps, dims)
                tensors = self.resizing.resize_tensors(tensors, dims)
            except (UnsupportedError, ValueError) as error:
                sizes = ", ".join(f"{name}={dims[name]}" for name in self._names)
                raise FeedError(f"the module does not run with {sizes}: {error}") from error
            signature = resized_signature(signature, tensors)
        return Executor(steps, signature, tensors, self._host, self._num_threads, pool)
