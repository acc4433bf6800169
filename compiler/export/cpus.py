"""CPUs that modules are exported for: what their kernels may use, and what a library checks."""

from __future__ import annotations

from dataclasses import dataclass

from hocket.compiler.errors import ExportError
from hocket.runtime.cpu import CpuFeatures

GLIBC = "2.28"
"""The oldest C library that exported libraries run with; Debian 10 has it."""


@dataclass(frozen=True)
class Machine:
    """An instruction set, in the words of those who must know it.

    Attributes:
        name: First part of its triple.
        llvm_triple: As LLVM has it, in full, so that nothing is guessed from parts left out.
        llvm_abi: Calling convention, where LLVM's default is not that of Linux.
        zig_target: As ``zig cc`` has it.
        zig_cpu: The least of its CPUs, for code that runs before features are known.
    """

    name: str
    llvm_triple: str
    llvm_abi: str
    zig_target: str
    zig_cpu: str


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("x86_64", "x86_64-unknown-linux-gnu", "", f"x86_64-linux-gnu.{GLIBC}", "x86_64"),
        Machine(
            "aarch64", "aarch64-unknown-linux-gnu", "", f"aarch64-linux-gnu.{GLIBC}", "generic"
        ),
        Machine(
            "armv7",
            "armv7-unknown-linux-gnueabihf",
            "",
            f"arm-linux-gnueabihf.{GLIBC}",
            "generic+v7a+vfp3d16",
        ),
        Machine(
            "riscv64",
            "riscv64-unknown-linux-gnu",
            "lp64d",
            f"riscv64-linux-gnu.{GLIBC}",
            "baseline_rv64",
        ),
    )
}


@dataclass(frozen=True)
class ExportCpu:
    """A CPU, or what a family of them has in common.

    Attributes:
        name: As in ``--cpu``; where there is a hardware model of it, by that name.
        machine: Key of ``MACHINES``.
        llvm_name: LLVM's CPU, which says what is had and how long it takes.
        llvm_features: What is had besides, or not used, in LLVM's words.
        features: What a library finds out at load, in the words of ``c/cpu.h``: all that code for
            this CPU makes use of and some CPU of the machine lacks.
        lanes: float32 lanes of a vector.
        registers: Vector registers.
        extensions: Of ``runtime.cpu.EXTENSIONS``.
    """

    name: str
    machine: str
    llvm_name: str
    llvm_features: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    extensions: tuple[str, ...] = ()

    @property
    def kernel_features(self) -> CpuFeatures:
        """What kernels must know of it."""
        return CpuFeatures(self.name, self.lanes, self.registers, extensions=self.extensions)


_X86_V2 = ("popcnt", "sse3", "ssse3", "sse4.1", "sse4.2")
_X86_V3 = (*_X86_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_X86_V4 = (*_X86_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_ARM_V8_2 = ("atomics", "fphp", "asimdhp", "asimddp")
_RV64GC = "+m,+a,+f,+d,+c"

CPUS = {
    cpu.name: cpu
    for cpu in (
        ExportCpu("x86-64-v2", "x86_64", "x86-64-v2", "", _X86_V2, 4, 16),
        ExportCpu("x86-64-v3", "x86_64", "x86-64-v3", "", _X86_V3, 8, 16),
        ExportCpu("x86-64-v4", "x86_64", "x86-64-v4", "", _X86_V4, 16, 32, ("avx512dq",)),
        ExportCpu(
            "znver5",
            "x86_64",
            "x86-64-v4",
            "+avx512bf16",
            (*_X86_V4, "avx512bf16"),
            16,
            32,
            ("avx512dq", "avx512bf16"),
        ),
        ExportCpu("armv8-a", "aarch64", "generic", "", (), 4, 32),
        ExportCpu("cortex-a53", "aarch64", "cortex-a53", "", (), 4, 32),
        ExportCpu("cortex-a72", "aarch64", "cortex-a72", "", (), 4, 32),
        ExportCpu("cortex-a76", "aarch64", "cortex-a76", "", _ARM_V8_2, 4, 32),
        ExportCpu("neoverse-n1", "aarch64", "neoverse-n1", "", _ARM_V8_2, 4, 32),
        # Its registers for vectors of any length are those of NEON, which is what kernels use.
        ExportCpu("neoverse-v1", "aarch64", "neoverse-v1", "-sve", _ARM_V8_2, 4, 32),
        ExportCpu("cortex-a7", "armv7", "cortex-a7", "", ("neon", "vfpv4", "idiva"), 4, 16),
        ExportCpu("rv64gc", "riscv64", "generic-rv64", _RV64GC, (), 4, 32),
        ExportCpu("rv64gcv", "riscv64", "generic-rv64", f"{_RV64GC},+v", ("v",), 4, 32),
        ExportCpu(
            "spacemit-x60",
            "riscv64",
            "generic-rv64",
            f"{_RV64GC},+v,+zvl256b",
            ("v", "vlen256"),
            8,
            32,
        ),
    )
}
"""The CPUs, by name."""

_ANY_CPU = {
    "x86_64": "x86-64-v3",
    "aarch64": "armv8-a",
    "armv7": "cortex-a7",
    "riscv64": "rv64gc",
}


def find_machine(triple: str) -> Machine:
    """Return the machine of a triple such as ``aarch64-linux-gnu``.

    Raises:
        ExportError: It is none that is exported for.
    """
    name, _, system = triple.partition("-")
    name = {"armv7l": "armv7", "armv7a": "armv7", "arm64": "aarch64", "amd64": "x86_64"}.get(
        name, name
    )
    wanted = {machine: f"{machine}-linux-{_abi(machine)}" for machine in MACHINES}
    if name not in MACHINES or system.removeprefix("unknown-") not in (
        "",
        f"linux-{_abi(name)}",
        "linux",
    ):
        raise ExportError(
            f"cannot export for {triple!r}; want one of {', '.join(sorted(wanted.values()))}"
        )
    return MACHINES[name]


def find_cpu(machine: Machine, name: str) -> ExportCpu:
    """Return a CPU of a machine; the least that is worth its kernels without a name.

    Raises:
        ExportError: There is none of that name.
    """
    cpu = CPUS.get(name or _ANY_CPU[machine.name])
    if cpu is None or cpu.machine != machine.name:
        known = ", ".join(cpu.name for cpu in CPUS.values() if cpu.machine == machine.name)
        raise ExportError(f"no CPU {name!r} of {machine.name} is known; want one of {known}")
    return cpu


def _abi(machine: str) -> str:
    return "gnueabihf" if machine == "armv7" else "gnu"
