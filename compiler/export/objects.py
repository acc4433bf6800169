"""Kernels as object files for other CPUs: the same text and tiles that the runtime compiles.

Numba makes LLVM's code of a kernel's text for any machine, as nothing in it is Python: numbers,
addresses, calls of tiles. What must be told is the machine: triple, data layout and CPU, for the
passes and for the code in the end.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
from numba.core import compiler, types
from numba.core.codegen import AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from hocket.compiler.export.cpus import MACHINES
from hocket.runtime.kernels.generator import ENTRY_NAME

if TYPE_CHECKING:
    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.kernels.source import KernelSource

# Numba carries no types of its own.
_numba: Any = compiler
_PICKLED_EXCEPTION = re.compile(r"ptr @\.const\.picklebuf\.\w+")


def compile_kernel(source: KernelSource, cpu: ExportCpu, symbol: str) -> bytes:
    """Return an object file with a kernel as a C function, and nothing else that is seen.

    In C it is ``int symbol(void **, void **, int64_t, int64_t, int64_t)``. The first two are
    places for what Numba's functions give back, and are written to; then come the addresses of
    arguments, scratch and counter. It returns 0, or another number where Python would have raised.

    Args:
        source: The kernel.
        cpu: For which CPU.
        symbol: Name of the function.
    """
    machine = _target_machine(cpu)
    module = _compile(source, cpu, machine, symbol)
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return bytes(machine.emit_object(module))


class _Codegen(AOTCPUCodegen):
    """Numba's code generation, told of another machine than this one."""

    def __init__(self, cpu: ExportCpu, machine: Any) -> None:
        self._triple = MACHINES[cpu.machine].llvm_triple
        self._machine = machine
        super().__init__("hocket")  # type: ignore[no-untyped-call]

    def _init(self, llvm_module: Any) -> None:
        # Numba makes an engine that runs code here; what it needs of it is the layout of data.
        del llvm_module
        self._tm_features = ""
        self._tm = self._machine
        self._target_data = self._machine.target_data
        self._data_layout = str(self._target_data)
        self._loopvect = False
        self._opt_level = 0

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)  # type: ignore[no-untyped-call]
        module.triple = self._triple
        return module


def _compile(source: KernelSource, cpu: ExportCpu, machine: Any, symbol: str) -> Any:
    """Return LLVM's module of a kernel, in which nothing but its function is seen."""
    names: dict[str, Any] = {"__name__": "hocket_kernel"}
    exec(compile(source.plain_text, "<kernel>", "exec"), names)  # noqa: S102 (our own text)
    flags = _numba.Flags()
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    flags.error_model = "numpy"
    context = cpu_target.target_context.subtarget(
        _internal_codegen=_Codegen(cpu, machine), aot_mode=True
    )
    with global_compiler_lock:
        compiled = _numba.compile_extra(
            cpu_target.typing_context,
            context,
            names[ENTRY_NAME],
            (types.intp,) * 3,
            types.void,
            flags,
            locals={},
        )
        library = compiled.library
        library.finalize()
    # Where Python would raise, Numba names a pickled exception: of use to Python alone.
    text = _PICKLED_EXCEPTION.sub("ptr null", library.get_llvm_str())
    module = llvm.parse_assembly(text)
    entry = module.get_function(compiled.fndesc.llvm_func_name)
    entry.name = symbol
    entry.visibility = "hidden"
    for function in module.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    for value in module.global_variables:
        value.linkage = "internal"
    return module


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _target_machine(cpu: ExportCpu) -> Any:
    _initialize()
    machine = MACHINES[cpu.machine]
    return llvm.Target.from_triple(machine.llvm_triple).create_target_machine(
        cpu=cpu.llvm_name,
        features=cpu.llvm_features,
        opt=3,
        reloc="pic",
        codemodel="default",
        abiname=machine.llvm_abi,
    )
