"""Runs the steps of an artifact, one after the other, over one set of arrays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.arena import aligned_bytes, allocate, plan_arena
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.profile import Profile, StepTime
from hocket.runtime.sharing import is_worth_sharing
from hocket.runtime.steps import AttentionStep, HostStep
from hocket.runtime.workers import IDLE_SECONDS, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.runtime.host import HostBinding, HostSessions
    from hocket.runtime.kernels.attention import AttentionKernel, BoundAttention
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.signature import Signature, TensorSpec
    from hocket.runtime.steps import Step


class Executor:
    """All that runs of one artifact share: kernels, an onnxruntime session, threads, memory plan.

    It knows the steps but not the weights: onnxruntime has copies of its own, and a device has no
    room for them twice.

    Args:
        steps, signature, tensors: Of the artifact.
        host: Its host steps; None if it has none.
        num_threads: Threads for kernels and host steps alike.
        pool: Threads to share with others; None to make some if a step is worth it.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        signature: Signature,
        tensors: Mapping[str, TensorSpec],
        host: HostSessions | None,
        num_threads: int,
        pool: WorkerPool | None = None,
    ) -> None:
        self.steps = steps
        self.signature = signature
        self.tensors = tensors
        self.host = host
        self.num_threads = num_threads
        worth_sharing = {
            step.name for step in steps if is_worth_sharing(step, has_host=host is not None)
        }
        # After an attention, host steps are next to want the cores.
        idle_seconds = IDLE_SECONDS if host is None else 0.0
        self.pool = pool
        if pool is None and worth_sharing and num_threads > 1:
            self.pool = WorkerPool(num_threads, idle_seconds)
        self._pools = dict.fromkeys(worth_sharing, self.pool)
        made: dict[AttentionParameters, AttentionKernel] = {}
        self.kernels: dict[str, AttentionKernel] = {}
        for step in steps:
            if isinstance(step, AttentionStep):
                if step.parameters not in made:
                    made[step.parameters] = make_attention_kernel(step.parameters)
                self.kernels[step.name] = made[step.parameters]
        self.plan = plan_arena(steps, signature, tensors)
        self.scratch_bytes = max(
            (kernel.scratch_bytes(num_threads) for kernel in made.values()), default=0
        )

    @property
    def context_bytes(self) -> int:
        """Bytes a run holds besides weights, inputs and outputs; onnxruntime's own not counted."""
        return self.plan.size_bytes + self.scratch_bytes

    def pool_for(self, step: AttentionStep) -> WorkerPool | None:
        """Return the threads that a step is worth waking, None for the caller alone."""
        return self._pools.get(step.name)

    def new_context(self) -> ExecutionContext:
        """Return what one run at a time needs of its own."""
        return ExecutionContext(self)

    def close(self) -> None:
        """Stop the threads."""
        if self.pool is not None:
            self.pool.close()


class ExecutionContext:
    """Arrays and bindings of one run at a time; used again by the next run.

    Attributes:
        host: The host steps it is bound to; None if there are none.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.host = executor.host
        self._arrays = allocate(executor.plan, executor.tensors)
        self._scratch = aligned_bytes(executor.scratch_bytes)
        # Arrays of the caller change with every run; all others are bound once.
        signature = executor.signature
        changing = {spec.name for spec in (*signature.inputs, *signature.outputs)}
        self._bindings: dict[str, HostBinding] = {}
        for step in executor.steps:
            if isinstance(step, HostStep) and self.host is not None:
                binding = self.host.new_binding(step, executor.tensors)
                binding.bind({name: array.ctypes.data for name, array in self._arrays.items()})
                self._bindings[step.name] = binding
        # To check arrays and ask for their addresses costs as much as a small attention takes.
        self._attentions = {
            step.name: self._bind_attention(step, self._arrays)
            for step in executor.steps
            if isinstance(step, AttentionStep)
            and changing.isdisjoint((*step.inputs, *step.outputs))
        }

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        profiled: bool = False,
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[list[NDArray[Any]], Profile | None]:
        """Run all steps.

        Args:
            feeds: Every input by name, checked and C-contiguous.
            profiled: Whether to time the steps.
            given: Arrays to write outputs to, by name, checked and C-contiguous.

        Returns:
            All outputs, in newly allocated arrays where none is given, and the profile if asked
            for.
        """
        wanted = self._executor.signature.outputs
        outputs = {}
        for spec in wanted:
            array = None if given is None else given.get(spec.name)
            if array is None:
                array = np.empty(spec.shape, spec.numpy_dtype)
            if spec.name in feeds:  # an output that is an input: nobody makes it
                array[...] = feeds[spec.name]
            outputs[spec.name] = array
        arrays = {**self._arrays, **feeds, **outputs}
        changing = {**feeds, **outputs}
        addresses = {name: array.ctypes.data for name, array in changing.items()}
        times: list[StepTime] = []
        for step in self._executor.steps:
            start = time.perf_counter() if profiled else 0.0
            if isinstance(step, AttentionStep):
                bound = self._attentions.get(step.name) or self._bind_attention(step, arrays)
                bound.run(self._executor.pool_for(step))
            else:
                binding = self._bindings[step.name]
                binding.bind(addresses)
                binding.run()
            if profiled:
                kind = "attention" if isinstance(step, AttentionStep) else "host"
                times.append(StepTime(step.name, kind, start, time.perf_counter() - start))
        profile = Profile(tuple(times)) if profiled else None
        return [outputs[spec.name] for spec in wanted], profile

    def _bind_attention(
        self, step: AttentionStep, arrays: Mapping[str, NDArray[Any]]
    ) -> BoundAttention:
        parameters = step.parameters
        mask = None
        if step.mask is not None and parameters.mask_shape is not None:
            mask = arrays[step.mask].reshape(parameters.mask_shape)
        return self._executor.kernels[step.name].bind(
            arrays[step.query].reshape(parameters.query_shape),
            arrays[step.key].reshape(parameters.key_shape),
            arrays[step.value].reshape(parameters.value_shape),
            mask=mask,
            kv_lengths=None if step.kv_lengths is None else arrays[step.kv_lengths],
            output=arrays[step.output].reshape(parameters.output_shape),
            scratch=self._scratch,
        )
