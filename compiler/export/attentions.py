"""The attention of a module as an exported library has it: kernels, sizes, numbers for calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.dtypes import DType
from hocket.runtime.kernels.generator import generate_source
from hocket.runtime.kernels.plan import (
    OPERANDS,
    SCRATCH_ALIGNMENT,
    kernel_form,
    make_arguments,
    plan_reals,
)
from hocket.runtime.kernels.schedule import plan_kernel
from hocket.runtime.sharing import is_worth_sharing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.kernels.source import KernelSource
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import AttentionStep

MAX_TASKS = 64
"""Tasks that an attention is given to onnxruntime's threads as, at most."""


@dataclass(frozen=True)
class Operand:
    """An array that an attention reads or writes.

    Attributes:
        name: As in ``runtime.kernels.plan.OPERANDS``.
        dtype: Element type.
        shape: In memory, as the kernel has it.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class ExportedAttention:
    """One attention of a module, for a CPU.

    Attributes:
        step: The step of the module.
        kernel: Index into the kernels of the export.
        operands: Those that it has, by name.
        output_shape: Of the tensor that the step makes.
        worker_bytes, shared_bytes, counter_bytes: Scratch memory of a worker, what workers share
            of it, and how much of that is to be 0 before a run.
        max_workers: Threads worth giving it to.
        numbers: Arguments behind the addresses of operands, int64.
    """

    step: AttentionStep
    kernel: int
    operands: Mapping[str, Operand]
    output_shape: tuple[int, ...]
    worker_bytes: int
    shared_bytes: int
    counter_bytes: int
    max_workers: int
    numbers: tuple[int, ...]

    def scratch_bytes(self, num_workers: int) -> int:
        """Return the bytes of scratch for a number of threads, as the library itself does."""
        return SCRATCH_ALIGNMENT + self.shared_bytes + num_workers * self.worker_bytes


def plan_attentions(
    steps: Sequence[AttentionStep], tensors: Mapping[str, TensorSpec], cpu: ExportCpu
) -> tuple[list[ExportedAttention], list[KernelSource]]:
    """Return what a library must know of each attention, and the kernels they need.

    Args:
        steps: The attention steps of a module.
        tensors: Its tensors, by name.
        cpu: The CPU to export for.
    """
    sources: dict[str, KernelSource] = {}
    attentions = []
    for step in steps:
        parameters = step.parameters
        source = generate_source(parameters, cpu.kernel_features)
        sources.setdefault(source.digest, source)
        form = kernel_form(parameters, cpu.kernel_features)
        plan = plan_kernel(parameters, form)
        arguments = make_arguments(plan.sizes, plan_reals(parameters, form))
        shares = is_worth_sharing(step, has_host=False)
        attentions.append(
            ExportedAttention(
                step=step,
                kernel=list(sources).index(source.digest),
                operands=_operands(step),
                output_shape=tensors[step.output].shape,
                worker_bytes=plan.worker_bytes,
                shared_bytes=plan.shared_bytes,
                counter_bytes=8 * plan.num_counters,
                max_workers=min(plan.sizes["num_items"], MAX_TASKS) if shares else 1,
                numbers=tuple(arguments[len(OPERANDS) :].tolist()),
            )
        )
    return attentions, list(sources.values())


def _operands(step: AttentionStep) -> dict[str, Operand]:
    parameters = step.parameters
    operands = [
        Operand(name, parameters.dtype, getattr(parameters, f"{name}_shape"))
        for name in ("query", "key", "value", "output")
    ]
    if parameters.mask_shape is not None:
        operands.append(Operand("mask", parameters.mask_element, parameters.mask_shape))
    if parameters.has_kv_lengths:
        operands.append(Operand("kv_lengths", DType.INT64, (parameters.batch,)))
    return {operand.name: operand for operand in operands}
