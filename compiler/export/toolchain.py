"""The C compiler and linker for other machines: Zig's, which installs as a Python package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

from hocket.compiler.errors import CompileError, ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hocket.compiler.export.cpus import Machine

_FLAGS = (
    *("-std=c99", "-O2", "-fPIC", "-fvisibility=hidden", "-D_POSIX_C_SOURCE=200112L"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable"),
)


def check_toolchain() -> None:
    """Make sure that there is a C compiler for other machines.

    Raises:
        ExportError: There is none.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise ExportError(
            "to export takes a C compiler for other machines: pip install 'hocket[export]'"
        )


def toolchain_version() -> str:
    """Return Zig's version."""
    return _run("version").strip()


def compile_c(source: Path, target: Path, machine: Machine) -> None:
    """Compile a C file to an object file.

    Args:
        source: The file; headers lie beside it.
        target: The object file.
        machine: For which machine: any of its CPUs may run it.
    """
    _run("cc", *_target(machine), *_FLAGS, "-c", str(source), "-o", str(target))


def link_shared(objects: Sequence[Path], target: Path, machine: Machine) -> None:
    """Link object files to a shared library."""
    names = map(str, objects)
    _run(
        *("cc", *_target(machine), "-shared", "-s", f"-Wl,-soname,{target.name}"),
        *("-Wl,-z,noexecstack,--gc-sections", *names, "-o", str(target)),
    )


def archive(objects: Sequence[Path], target: Path) -> None:
    """Put object files into a static library."""
    # Dates and owners are left out: the same objects give the same bytes.
    _run("ar", "rcsD", str(target), *map(str, objects))


def _target(machine: Machine) -> tuple[str, ...]:
    return ("-target", machine.zig_target, f"-mcpu={machine.zig_cpu}")


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = done.stderr.strip() or (
            f"status {done.returncode}, and no reason given; is there room on the disk?"
        )
        raise CompileError(f"zig {arguments[0]} failed: {said}")
    return done.stdout
