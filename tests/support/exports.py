"""Exported libraries on this machine: built, linked with a runner, and run, emulated if need be."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from support.attention_reference import Operands, as_stored
from support.modules import tiny_artifact

from hocket.compiler.export.cpus import CPUS, MACHINES
from hocket.compiler.export.library import build_library
from hocket.hwmodels.dtypes import DType
from hocket.runtime.signature import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.export.attentions import ExportedAttention
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.steps import AttentionStep

PREFIX = "hocket_test"
RUNNER = Path(__file__).parent / "c" / "run_attention.c"

EMULATED = {
    "x86_64": ("x86_64-linux-gnu", ["qemu-x86_64-static"]),
    "aarch64": ("aarch64-linux-gnu", ["qemu-aarch64-static", "-cpu", "cortex-a76"]),
    "armv7": ("arm-linux-gnueabihf", ["qemu-arm-static", "-cpu", "cortex-a7"]),
    "riscv64": (
        "riscv64-linux-gnu",
        ["qemu-riscv64-static", "-cpu", "rv64,v=true,vext_spec=v1.0,vlen=256"],
    ),
}
"""Folder of the C library and command of the emulator, by machine."""

CASES: dict[str, dict[str, Any]] = {
    "plain": {"query_heads": 2, "kv_heads": 2, "query_length": 50, "kv_length": 70},
    "odd-sizes": {"head_dim": 15, "value_dim": 21, "query_length": 33, "kv_length": 45},
    "causal": {"query_length": 65, "kv_length": 65, "is_causal": True, "query_layout": "bnhd"},
    "boolean-mask": {
        "batch": 2,
        "query_length": 40,
        "kv_length": 24,
        "mask": "boolean",
        "mask_shape": (2, 1, 1, 24),
        "masked_value": -1e9,
    },
    "added-mask": {
        "query_length": 20,
        "kv_length": 30,
        "mask": "additive",
        "mask_shape": (1, 1, 20, 30),
        "masked_rows": "zero",
    },
    "grouped": {"query_heads": 6, "kv_heads": 2, "query_length": 34, "output_layout": "bnhd"},
    "lengths": {
        "batch": 2,
        "query_length": 24,
        "kv_length": 40,
        "has_kv_lengths": True,
        "counts_from_end": True,
        "left_window": 9,
        "right_window": 2,
        "masked_rows": "zero",
    },
    "softcap": {"query_length": 30, "kv_length": 30, "softcap": 2.0},
    "few-rows": {"query_heads": 8, "kv_heads": 2, "query_length": 1, "kv_length": 1300},
    "float16": {"query_length": 40, "kv_length": 40, "dtype": DType.FLOAT16},
    "bfloat16": {"query_length": 40, "kv_length": 40, "dtype": DType.BFLOAT16},
    "float64": {"query_length": 40, "kv_length": 40, "dtype": DType.FLOAT64},
}
"""Changes to a small attention, by name: all forms of kernels that a module may need."""


def native_cpu() -> str:
    """Return the best CPU to export for that this machine is."""
    present = llvm.get_host_cpu_features()
    if present.get("avx512dq") and present.get("avx512vl"):
        return "x86-64-v4"
    return "x86-64-v3" if present.get("avx2") and present.get("fma") else "x86-64-v2"


def build(
    folder: Path, cpu: str, parameters: Sequence[AttentionParameters]
) -> list[ExportedAttention]:
    """Build a library of these attentions into a folder."""
    step = tiny_artifact().attention_steps[0]
    steps: list[AttentionStep] = []
    tensors: dict[str, TensorSpec] = {}
    for number, each in enumerate(parameters):
        steps.append(
            dataclasses.replace(
                step, name=f"layer.{number}", parameters=each, output=f"output.{number}"
            )
        )
        tensors[f"output.{number}"] = TensorSpec(f"output.{number}", each.dtype, each.output_shape)
    return build_library(
        steps, tensors, CPUS[cpu], folder, kind="library", prefix=PREFIX, about=["A test."]
    )


@dataclass(frozen=True)
class Runner:
    """A program that runs attentions of a library, see ``c/run_attention.c``.

    Attributes:
        command: What starts it.
        folder: Where arrays go to.
    """

    command: tuple[str, ...]
    folder: Path

    def run(
        self,
        attention: int,
        arrays: Mapping[str, NDArray[Any] | None],
        output: NDArray[Any],
        workers: int = 1,
    ) -> tuple[int, str, NDArray[Any]]:
        """Return the code, what it means, and the output, in bytes as given if the code is not 0.

        Args:
            attention: Its number.
            arrays: Operands, by name; any of any size.
            output: As large as the output is to be.
            workers: Workers, who take turns.
        """
        names = []
        for name in ("output", "query", "key", "value", "mask", "kv_lengths"):
            array = output if name == "output" else arrays.get(name)
            names.append("-" if array is None else str(self.folder / f"{name}.bin"))
            if array is not None:
                np.ascontiguousarray(array).tofile(self.folder / f"{name}.bin")
        done = subprocess.run(
            [*self.command, str(attention), str(workers), *names],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        code, _, message = done.stdout.strip().partition(" ")
        stored = np.fromfile(self.folder / "output.bin", output.dtype).reshape(output.shape)
        return int(code), message, stored


def make_runner(folder: Path, machine: str, cpu: str = "", name: str = "run") -> Runner:
    """Link a runner with the shared library in a folder, and return how it is started here.

    Skips the test where the machine is another and there is no emulator for it.
    """
    prefix = start_command(machine, cpu)
    source = RUNNER.read_text(encoding="utf-8")
    source = source.replace("hocket_model", PREFIX).replace("HOCKET_MODEL", PREFIX.upper())
    (folder / f"{name}.c").write_text(source, encoding="utf-8")
    zig = MACHINES[machine]
    subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", zig.zig_target),
            *(f"-mcpu={zig.zig_cpu}", "-O1", str(folder / f"{name}.c"), f"-L{folder}"),
            *(f"-l{PREFIX}", "-Wl,-rpath,$ORIGIN", "-o", str(folder / name)),
        ],
        check=True,
    )
    return Runner((*prefix, str(folder / name)), folder)


def data_folder() -> Path:
    """Return the folder in which ``make`` keeps what it downloads."""
    return Path(os.environ.get("HOCKET_DATA_DIR") or "~/.cache/hocket/data").expanduser()


def start_command(machine: str, cpu: str = "") -> list[str]:
    """Return what starts programs of a machine here, or skip the test.

    Args:
        machine: The machine.
        cpu: In the emulator's words; one that has all features by default.
    """
    if machine == "x86_64" and not cpu:
        return []
    library, (program, *options) = EMULATED[machine]
    unpacked = data_folder() / "emulators" / "usr"
    found = shutil.which(program) or shutil.which(program, path=str(unpacked / "bin"))
    roots = [root for root in (Path("/usr"), unpacked) if (root / library / "lib").is_dir()]
    if found is None or (machine != "x86_64" and not roots):
        pytest.skip(f"no emulator of {machine} with a C library: make emulators")
    if cpu:
        options = ["-cpu", cpu]
    return [found, *options, *(["-L", str(roots[0] / library)] if machine != "x86_64" else [])]


def operands_by_name(operands: Operands) -> dict[str, NDArray[Any] | None]:
    """Return the operands that an exported attention takes."""
    names = ("query", "key", "value", "mask", "kv_lengths")
    return {name: getattr(operands, name) for name in names}


def empty_output(parameters: AttentionParameters) -> NDArray[Any]:
    """Return an array for the output, full of what is wrong."""
    size = math.prod(parameters.output_shape)
    wrong = as_stored(np.full(size, 1e4, np.float32), parameters.dtype)
    return wrong.reshape(parameters.output_shape)
