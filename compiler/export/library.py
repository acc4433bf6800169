"""A library of attention for one CPU: kernels, the functions around them, and their header."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.compiler.export.attentions import plan_attentions
from hocket.compiler.export.c_text import c_source, header_text, kernel_symbol, tables_text
from hocket.compiler.export.cpus import MACHINES
from hocket.compiler.export.objects import compile_kernel
from hocket.compiler.export.toolchain import archive, compile_c, link_shared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.compiler.export.attentions import ExportedAttention
    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import AttentionStep

KINDS = ("library", "onnxruntime")
"""Forms of a library: to be called from C, or by onnxruntime as an operator."""


def build_library(
    steps: Sequence[AttentionStep],
    tensors: Mapping[str, TensorSpec],
    cpu: ExportCpu,
    folder: Path,
    *,
    kind: str,
    prefix: str,
    about: Sequence[str],
) -> list[ExportedAttention]:
    """Write a library into a folder, and return what it knows of each attention.

    Of kind "library" it is ``libPREFIX.so``, ``libPREFIX.a`` and ``PREFIX.h``; of kind
    "onnxruntime", ``libPREFIX_onnxruntime.so``.

    Args:
        steps: Attention steps, which the library numbers from 0.
        tensors: Their tensors, by name.
        cpu: Which CPU it is for.
        folder: Where to.
        kind: One of ``KINDS``.
        prefix: What its names in C begin with.
        about: Lines for the top of its header.

    Raises:
        CompileError: The C compiler failed.
    """
    attentions, sources = plan_attentions(steps, tensors, cpu)
    machine = MACHINES[cpu.machine]
    header = header_text(prefix, about, attentions)
    texts = {
        f"{prefix}.h": header,
        "tables.h": tables_text(prefix, attentions, cpu, len(sources)),
        **{name: c_source(name, prefix) for name in ("cpu.h", "library.c", "onnxruntime.c")},
    }
    with tempfile.TemporaryDirectory(prefix="hocket-export-") as temporary:
        work = Path(temporary)
        for name, text in texts.items():
            (work / name).write_text(text, encoding="utf-8")
        objects = []
        for index, source in enumerate(sources):
            objects.append(work / f"{kernel_symbol(prefix, index)}.o")
            objects[-1].write_bytes(compile_kernel(source, cpu, kernel_symbol(prefix, index)))
        for name in KINDS if kind == "onnxruntime" else ("library",):
            objects.append(work / f"{prefix}_{name}.o")
            compile_c(work / f"{name}.c", objects[-1], machine)
        if kind == "onnxruntime":
            link_shared(objects, folder / f"lib{prefix}_onnxruntime.so", machine)
            return attentions
        link_shared(objects, folder / f"lib{prefix}.so", machine)
        archive(objects, folder / f"lib{prefix}.a")
    (folder / f"{prefix}.h").write_text(header, encoding="utf-8")
    return attentions
