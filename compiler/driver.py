"""The one place that knows the order: a model and a machine in, an artifact out."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import PurePath
from typing import TYPE_CHECKING

from hocket.compiler.assemble import AttentionPlan, assemble_artifact, kernel_parameters
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.search.objective import OBJECTIVES
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.tuning_log import TuningLog
from hocket.compiler.errors import ModelError
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_for_host, prepare_model
from hocket.compiler.graph.recognize.rules import recognize_attention
from hocket.compiler.graph.regions import AttentionRegion
from hocket.compiler.graph.resizable import cut_resizable
from hocket.compiler.options import CompileOptions
from hocket.compiler.resizing import make_resizing
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import onnx
    import onnx_ir

    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.graph.regions import PartitionedModel
    from hocket.compiler.graph.samples import Span
    from hocket.compiler.problem import AttentionProblem
    from hocket.runtime.artifact import Artifact

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto | onnx_ir.Model
    Progress = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)

HOST = "host"
"""Name of the target that is the CPU itself; its cores are as many as the threads asked for."""


def compile_model(
    model: Model,
    *,
    target: str | os.PathLike[str] | HardwareModel = HOST,
    dims: Mapping[str, int | str | Span] | None = None,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model for a machine.

    Args:
        model: Path or bytes of an ONNX file, or a model in memory, which is left as it is.
        target: Name of a built-in machine, path of a TOML file that describes one, or a machine.
        dims: Size of each open dimension of the inputs, by name or by ``INPUT:AXIS``; two sizes,
            the least and the largest, for one that is to stay open; text for one that is a sum of
            others, such as ``past + new``, where the file does not say so.
        options: Further choices.
        progress: Called as ``progress(what, done, total)`` as the work goes on.

    Raises:
        ModelError: The model cannot be read or compiled, or a dimension has no size.
        TargetError: The machine is unknown, or its description wrong.
        InfeasibleError: An attention does not fit the machine in any tiling.
        CompileError: A pass failed on a model that had passed all checks.
    """
    options = options or CompileOptions()
    report = progress or _ignore_progress
    machine = _machine(target, options)
    report("reading and recognising", 0, 1)
    fixed, spans = split_dims(dims or {})
    resizable = None
    if spans:
        source, resizable = cut_resizable(
            model, fixed, spans, kernels_refuse, keeps_quantization=options.keep_quantization
        )
        cut = resizable.model
    else:
        source, cut = cut_model(model, fixed, keeps_quantization=options.keep_quantization)
    problems = list(
        dict.fromkeys(
            region.problem.planned for region in cut.regions if isinstance(region, AttentionRegion)
        )
    )
    log = TuningLog(options.tuning_log) if options.tuning_log else None
    plans: dict[AttentionProblem, AttentionPlan] = {}
    for number, problem in enumerate(problems):
        report("searching tilings", number, len(problems))
        plans[problem] = _plan(problem, machine, options, log)

    def tile(problem: AttentionProblem) -> tuple[int, int]:
        plan = plans.get(problem) or _plan(problem, machine, options, log)
        return plan.query_rows, plan.kv_columns

    resizing = None if resizable is None else make_resizing(resizable, tile)
    report("assembling", len(problems), len(problems))
    return assemble_artifact(
        cut,
        plans,
        model_name=PurePath(source).name,  # not the path: it is nobody's business where it lay
        producer=f"hocket {_version()}",
        target=machine,
        num_threads=options.num_threads,
        resizing=resizing,
    )


def split_dims(
    dims: Mapping[str, int | str | Span],
) -> tuple[dict[str, int | str], dict[str, Span]]:
    """Return the dimensions that have one size or are a sum of others, and those that stay open."""
    fixed = {name: size for name, size in dims.items() if not isinstance(size, tuple)}
    return fixed, {name: size for name, size in dims.items() if isinstance(size, tuple)}


def cut_model(
    model: Model, dims: Mapping[str, int | str] | None = None, *, keeps_quantization: bool = False
) -> tuple[str, PartitionedModel]:
    """Return what messages call a model, and the model cut into attention and host regions.

    Raises:
        ModelError: The model cannot be read or compiled, or a dimension has no size.
    """
    loaded = load_model(model, dims)
    recognized = recognize_attention(
        prepare_model(loaded), kernels_refuse, keeps_quantization=keeps_quantization
    )
    model = prepare_for_host(recognized.model, loaded.source)
    try:
        return loaded.source, partition(model, recognized.not_taken, loaded.dims)
    except ModelError as error:
        raise ModelError(f"{loaded.source}: {error}") from error


def kernels_refuse(problem: AttentionProblem) -> str | None:
    """Return why the runtime cannot compute a problem in a kernel; None if it can."""
    try:
        kernel_parameters(problem, ("bhnd", "bhnd", "bhnd", "bhnd"), query_rows=1, kv_columns=1)
    except UnsupportedError as error:
        return str(error)
    return None


def _plan(
    problem: AttentionProblem,
    machine: HardwareModel,
    options: CompileOptions,
    log: TuningLog | None,
) -> AttentionPlan:
    result = lower_attention(
        problem,
        machine,
        dataflow=options.dataflow,
        searcher=options.searcher,
        objective=_objective(options.objective),
        budget=Budget(tasks=options.search_tasks),
        seed=options.seed,
        verify=options.verify,
        log=log,
    )
    best = result.best
    logger.info("%s: %s; %s; %s", problem, best.tiling, best.estimate, result.stop_reason)
    return AttentionPlan(
        program=best.program,
        query_rows=best.tiling.query_rows,
        kv_columns=best.tiling.kv_columns,
        tiling=str(best.tiling),
        dataflow=result.dataflow,
        estimate=best.estimate,
    )


def _objective(name: str) -> Objective:
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def _machine(
    target: str | os.PathLike[str] | HardwareModel, options: CompileOptions
) -> HardwareModel:
    machine = target if isinstance(target, HardwareModel) else load_target(str(target))
    if machine.name == HOST and options.num_threads:
        return dataclasses.replace(machine, num_cores=options.num_threads)
    return machine


def _version() -> str:
    from importlib.metadata import version

    return version("hocket")


def _ignore_progress(what: str, done: int, total: int) -> None:
    del what, done, total
