"""Waiting for another thread awake: for a while, outside Python, and without its lock."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite
import numba
from llvmlite import ir

from hocket.runtime.kernels import lanes, tile
from hocket.runtime.kernels.lanes import INT32, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.source import KernelSource
from hocket.runtime.kernels.tile import make_tile

if TYPE_CHECKING:
    from hocket.runtime.cpu import CpuFeatures

ENTRY_NAME = "report_and_watch"
"""Name of the function in its module."""

_TEXT = '''"""Waiting awake, written by hocket.runtime.kernels.waiting; edits are not kept."""

from numba import intp, njit

from hocket.runtime.kernels import waiting

report_and_watch_tile = waiting.report_and_watch()


@njit(intp(intp, intp, intp, intp, intp), nogil=True, cache=True, error_model="numpy")
def report_and_watch(counter, reports, watched, known, turns):
    return report_and_watch_tile(counter, reports, watched, known, turns)
'''

# What tells a core that it is in a loop that waits, by LLVM's name of the machine: an intrinsic
# and its operands. On Arm this is the barrier that takes some cycles; its "yield" takes none.
_PAUSES = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.isb", (15,)),
    "arm64": ("llvm.aarch64.isb", (15,)),
}


def waiting_source(cpu: CpuFeatures) -> KernelSource:
    """Return the module of ``report_and_watch``, see the tile of that name."""
    digest = hashlib.sha256()
    for part in (
        f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode(),
        *(Path(str(file)).read_bytes() for file in (lanes.__file__, tile.__file__, __file__)),
        cpu.cache_key.encode(),
        _TEXT.encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return KernelSource(_TEXT, digest.hexdigest(), (ENTRY_NAME,))


@functools.cache
def report_and_watch() -> Intrinsic:
    """Return the tile that adds to one int64 and looks at another one until that changes.

    It adds ``reports`` to the one at ``counter``. Then it looks at the one at ``watched`` until
    that is not ``known``, though no more than ``turns`` times, and returns what it was at last.
    """

    def emit(
        emitter: Emitter,
        *,
        counter: Value,
        reports: Value,
        watched: Value,
        known: Value,
        turns: Value,
    ) -> Value:
        builder = emitter.builder
        counter, watched = (
            builder.inttoptr(address, ir.PointerType(SIZE)) for address in (counter, watched)
        )
        builder.atomic_rmw("add", counter, reports, "release")
        entry = builder.block
        look = builder.append_basic_block("look")
        rest = builder.append_basic_block("rest")
        leave = builder.append_basic_block("leave")
        builder.branch(look)

        builder.position_at_end(look)
        left = builder.phi(SIZE)
        left.add_incoming(turns, entry)
        found = builder.load_atomic(watched, "acquire", SIZE.width // 8)
        still = builder.icmp_signed("==", found, known)
        builder.cbranch(
            builder.and_(still, builder.icmp_signed(">", left, emitter.size(0))), rest, leave
        )

        builder.position_at_end(rest)
        _pause(builder)
        left.add_incoming(builder.sub(left, emitter.size(1)), rest)
        builder.branch(look)

        builder.position_at_end(leave)
        return found

    parameters = dict.fromkeys(("counter", "reports", "watched", "known", "turns"), SIZE)
    return make_tile(f"hocket_{ENTRY_NAME}", 1, parameters, emit, result=SIZE)


def _pause(builder: Value) -> None:
    """Write the instruction that lets a core rest for a moment, where we know of one."""
    module = builder.module
    name, operands = _PAUSES.get(module.triple.split("-")[0], (None, ()))
    if name is None:
        return
    function = module.globals.get(name) or ir.Function(
        module, ir.FunctionType(ir.VoidType(), [INT32] * len(operands)), name
    )
    builder.call(function, [INT32(operand) for operand in operands])
