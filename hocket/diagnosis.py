"""What this machine and this installation are, and what is amiss with them."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.installation import Part, data_advice, find_parts, installed_version, torch_advice
from hocket.runtime.cpu import usable_cores

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("numba", "llvmlite", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
OPTIONAL_PACKAGES = ("matplotlib", "ortools", "torch")
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


@dataclass(frozen=True)
class CacheUse:
    """A folder in which Hocket keeps what it can make again.

    Attributes:
        name: What it holds.
        path: Where it lies.
        num_entries: Files in it.
        size_bytes: What they take.
        is_writable: Whether files can be added.
    """

    name: str
    path: Path
    num_entries: int
    size_bytes: int
    is_writable: bool


@dataclass(frozen=True)
class Diagnosis:
    """The answer of ``diagnose``.

    Attributes:
        versions: Of Hocket, Python and the packages it stands on; None for one that is missing.
        system: Operating system and machine.
        cpu_name: LLVM's name of the CPU.
        vector_lanes: float32 lanes of its vector registers.
        num_vector_registers: How many of them there are.
        cpu_features: LLVM's names of what it can do.
        num_cores: Cores of the machine.
        num_usable_cores: Cores that this process may run on.
        thread_variables: Environment variables that change how many threads libraries start.
        caches: Folders of generated things.
        numpy_blas: Name and version of the BLAS that numpy was built with.
        problems: A sentence for each thing that is amiss; empty if nothing is.
        parts: Of Hocket, with the packages that each lacks.
        advice: A sentence for each thing that some part would want, and that is not amiss.
    """

    versions: dict[str, str | None]
    system: str
    cpu_name: str
    vector_lanes: int
    num_vector_registers: int
    cpu_features: tuple[str, ...]
    num_cores: int
    num_usable_cores: int
    thread_variables: dict[str, str]
    caches: tuple[CacheUse, ...]
    numpy_blas: str
    problems: tuple[str, ...]
    parts: tuple[Part, ...]
    advice: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look at the machine and the installation."""
    from hocket.runtime.cpu import detect_cpu

    versions = package_versions()
    caches, cache_problems = find_caches()
    cpu, parts = detect_cpu(), find_parts()
    return Diagnosis(
        versions=versions,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu_name=cpu.name,
        vector_lanes=cpu.vector_lanes,
        num_vector_registers=cpu.num_vector_registers,
        cpu_features=_cpu_features(),
        num_cores=os.cpu_count() or 1,
        num_usable_cores=usable_cores(),
        thread_variables={
            name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ
        },
        caches=caches,
        numpy_blas=_numpy_blas(),
        problems=(*cache_problems, *_find_problems(versions, caches, parts)),
        parts=parts,
        advice=tuple(filter(None, (torch_advice(versions["torch"]), *data_advice()))),
    )


def package_versions() -> dict[str, str | None]:
    """Return the versions of Hocket, Python and the packages; None for one that is missing."""
    versions: dict[str, str | None] = {
        "hocket": installed_version("hocket"),
        "python": platform.python_version(),
    }
    for name in (*PACKAGES, *OPTIONAL_PACKAGES):
        versions[name] = installed_version(name)
    return versions


def find_caches() -> tuple[tuple[CacheUse, ...], list[str]]:
    """Return the folders of generated things, and what is wrong with those that cannot be used."""
    from hocket.runtime.kernel_cache import cache_folder

    try:
        return (measure_cache("kernel", cache_folder()),), []
    except OSError as error:
        return (), [str(error)]


def measure_cache(name: str, path: Path) -> CacheUse:
    """Return what a cache folder holds; a folder that is not there yet holds nothing."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    size = 0
    for file in files:
        try:
            size += file.stat().st_size
        except FileNotFoundError:  # another process tidied up
            continue
    return CacheUse(name, path, len(files), size, _is_writable(path))


def _is_writable(path: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _cpu_features() -> tuple[str, ...]:
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return tuple(sorted(name for name, present in features.items() if present))


def _numpy_blas() -> str:
    import numpy as np

    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _find_problems(
    versions: dict[str, str | None], caches: tuple[CacheUse, ...], parts: tuple[Part, ...]
) -> list[str]:
    problems = []
    if sys.version_info < (3, 11):  # noqa: UP036 (a copied tree runs where pip refuses)
        problems.append(f"Python 3.11 or later is needed, this is {versions['python']}")
    for part in parts:
        # What is not installed at all of an extra nobody may want.
        lacking = [f"{name} is not installed" for name in part.missing if not part.extra]
        lacking += [f"{each} will not do" for each in part.unfit]
        problems += [f"{each}; {part.mend}" for each in lacking]
    problems += [
        f"the {cache.name} cache {cache.path} cannot be written, so that kernels are compiled "
        "anew in every process"
        for cache in caches
        if not cache.is_writable
    ]
    return problems
