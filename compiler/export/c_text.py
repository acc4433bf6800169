"""The C of an export: sources in ``c/``, with the names and numbers of a module put in."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from hocket.compiler.export.attentions import MAX_TASKS
from hocket.hwmodels.dtypes import DType
from hocket.runtime.kernels.plan import ARGUMENT_NAMES, OPERANDS
from hocket.runtime.signature import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.compiler.export.attentions import ExportedAttention
    from hocket.compiler.export.cpus import ExportCpu

INPUTS = ("query", "key", "value", "mask", "kv_lengths")
"""Inputs of an attention, in the order in which ``hocket::Attention`` has them."""

BUFFERS = (*INPUTS, "output")

_NAMES_IN_C = "hocket_model"
# TensorProto's numbers, which are onnxruntime's, too.
_ONNX_TYPES = {
    DType.FLOAT32: 1,
    DType.INT64: 7,
    DType.BOOL: 9,
    DType.FLOAT16: 10,
    DType.FLOAT64: 11,
    DType.BFLOAT16: 16,
}


def c_source(name: str, prefix: str, **parts: str) -> str:
    """Return a file of ``c/`` for a library.

    Args:
        name: Name of the file.
        prefix: What the names of the library begin with, ``hocket_bert``.
        parts: Text to put where the file has ``@part@``.
    """
    text = (resources.files(__package__) / "c" / name).read_text(encoding="utf-8")
    text = text.replace(_NAMES_IN_C, prefix).replace(_NAMES_IN_C.upper(), prefix.upper())
    # Last, as they may have such names themselves.
    for part, content in parts.items():
        text = text.replace(f"@{part}@", content)
    return text


def header_text(prefix: str, about: Sequence[str], attentions: Sequence[ExportedAttention]) -> str:
    """Return the C header of a library.

    Args:
        prefix: What its names begin with.
        about: Sentences at its top.
        attentions: What it computes.
    """
    macro = prefix.upper()
    lines = [
        "/* What is computed, by the number to call it by. */",
        f"#define {macro}_NUM_ATTENTIONS {len(attentions)}",
    ]
    for number, attention in enumerate(attentions):
        lines += ["", *_comment(number, attention)]
        lines += [
            f"#define {macro}_{number}_{name.upper()}_BYTES {_num_bytes(attention, name)}u"
            for name in BUFFERS
        ]
    rows = (
        f"{{{', '.join(f'{_num_bytes(attention, name)}u' for name in BUFFERS)}}}"
        for attention in attentions
    )
    least = max((attention.scratch_bytes(1) for attention in attentions), default=0)
    lines += [
        "",
        f"/* Bytes of {', '.join(BUFFERS)} of each. */",
        f"#define {macro}_BYTES {{ \\",
        *(f"    {row}, \\" for row in rows),
        "}",
        "",
        "/* Scratch memory that is enough for any of them with one worker. */",
        f"#define {macro}_SCRATCH_BYTES {least}u",
    ]
    top = "\n".join(f" * {line}".rstrip() for line in about)
    return c_source("library.h", prefix, about=top, attentions="\n".join(lines))


def tables_text(
    prefix: str, attentions: Sequence[ExportedAttention], cpu: ExportCpu, num_kernels: int
) -> str:
    """Return the header that the library's own functions look things up in."""
    dtypes = dict.fromkeys(attention.step.parameters.dtype for attention in attentions)
    lines = [
        f'#define CPU "{cpu.name}"',
        f"#define FEATURES {''.join(f'{chr(34)}{name}{chr(34)}, ' for name in cpu.features)}",
        f"#define NUM_ATTENTIONS {len(attentions)}",
        f"#define NUM_OPERANDS {len(OPERANDS)}",
        f"#define NUM_ARGUMENTS {len(ARGUMENT_NAMES)}",
        f"#define NUM_INPUTS {len(INPUTS)}",
        f"#define MASK_INPUT {INPUTS.index('mask')}",
        f"#define MAX_TASKS {MAX_TASKS}",
        f"#define OPERATORS {''.join(f'{{.type = {_ONNX_TYPES[each]}}}, ' for each in dtypes)}",
        f"enum {{ {', '.join(name.upper() for name in OPERANDS)} }};",
        "",
        "typedef int kernel_function(void **, void **, int64_t, int64_t, int64_t);",
        *(f"kernel_function {kernel_symbol(prefix, index)};" for index in range(num_kernels)),
        "",
        "struct attention {",
        "    kernel_function *kernel;",
        f"    struct operand {', '.join(BUFFERS)};",
        "    size_t worker_bytes, shared_bytes, counter_bytes;",
        "    int max_workers;",
        "    size_t output_rank;",
        f"    int64_t output_shape[{MAX_RANK}];",
        "    int64_t numbers[NUM_ARGUMENTS - NUM_OPERANDS];",
        "};",
        "",
        "static const struct attention attentions[] = {",
        *(line for attention in attentions for line in _entry(prefix, attention)),
        "};",
    ]
    return c_source("tables.h", prefix, tables="\n".join(lines))


def kernel_symbol(prefix: str, index: int) -> str:
    """Return the C name of a kernel."""
    return f"{prefix}_kernel_{index}"


def _entry(prefix: str, attention: ExportedAttention) -> list[str]:
    fields = [f"    {{.kernel = {kernel_symbol(prefix, attention.kernel)},"]
    for name in BUFFERS:
        operand = attention.operands.get(name)
        if operand is not None:
            onnx_type = _ONNX_TYPES[operand.dtype]
            sizes = f"{{{operand.num_bytes}u, {operand.dtype.itemsize}, {onnx_type}}}"
            fields.append(f"     .{name} = {sizes},")
    # The least int64 has no literal of its own in C.
    numbers = (str(n) if n > -(2**63) else "INT64_MIN" for n in attention.numbers)
    shape = attention.output_shape
    return [
        *fields,
        f"     .worker_bytes = {attention.worker_bytes}, .shared_bytes = {attention.shared_bytes},",
        f"     .counter_bytes = {attention.counter_bytes},",
        f"     .max_workers = {attention.max_workers},",
        f"     .output_rank = {len(shape)}, .output_shape = {{{', '.join(map(str, shape))}}},",
        f"     .numbers = {{{', '.join(numbers)}}}}},",
    ]


def _comment(number: int, attention: ExportedAttention) -> list[str]:
    lines = [f"/* {number}: {attention.step.name}".replace("*/", "* /")]
    for name in BUFFERS:
        operand = attention.operands.get(name)
        if operand is not None:
            sizes = "".join(f"[{size}]" for size in operand.shape)
            lines.append(f" *    {name}{sizes}, {operand.dtype}")
    return [*lines, " */"]


def _num_bytes(attention: ExportedAttention, name: str) -> int:
    operand = attention.operands.get(name)
    return 0 if operand is None else operand.num_bytes
