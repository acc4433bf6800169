"""A thread waits awake until a word changes, no longer than it was told, and keeps nobody out."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from hocket.runtime.cpu import detect_cpu
from hocket.runtime.kernel_cache import load_kernels
from hocket.runtime.kernels import waiting
from hocket.runtime.kernels.waiting import ENTRY_NAME, waiting_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FOREVER = 1 << 62


@pytest.fixture(scope="module")
def watch() -> Callable[..., int]:
    return load_kernels(waiting_source(detect_cpu()))[ENTRY_NAME]


@pytest.fixture
def words() -> NDArray[np.int64]:
    return np.array([5, 0], np.int64)


def address(words: NDArray[np.int64], place: int) -> int:
    return int(words.ctypes.data) + 8 * place


@pytest.mark.parametrize("turns", [0, 1, 1000])
def test_it_ends_after_its_turns(
    watch: Callable[..., int], words: NDArray[np.int64], turns: int
) -> None:
    assert watch(address(words, 1), 0, address(words, 0), 5, turns) == 5
    assert words.tolist() == [5, 0]


@pytest.mark.parametrize("turns", [-1, 0, FOREVER])
def test_it_ends_at_once_if_there_is_news(
    watch: Callable[..., int], words: NDArray[np.int64], turns: int
) -> None:
    assert watch(address(words, 1), 0, address(words, 0), 4, turns) == 5


def test_it_reports_first(watch: Callable[..., int], words: NDArray[np.int64]) -> None:
    assert watch(address(words, 1), 3, address(words, 1), 0, FOREVER) == 3
    assert watch(address(words, 1), -2, address(words, 1), 3, FOREVER) == 1
    assert words.tolist() == [5, 1]


def test_threads_tell_each_other(watch: Callable[..., int], words: NDArray[np.int64]) -> None:
    """Each waits for the other's report; held by one, Python would never come back."""
    found: list[int] = []

    def answer() -> None:
        for turn in range(100):
            found.append(watch(address(words, 1), 0, address(words, 0), 5 + turn, FOREVER))
            watch(address(words, 1), 1, address(words, 1), turn, FOREVER)

    thread = threading.Thread(target=answer)
    thread.start()
    for turn in range(100):
        assert watch(address(words, 0), 1, address(words, 1), turn, FOREVER) == turn + 1
    thread.join(10)
    assert found == list(range(6, 106))


def test_every_report_counts(watch: Callable[..., int], words: NDArray[np.int64]) -> None:
    def report() -> None:
        for _ in range(2000):
            watch(address(words, 0), 1, address(words, 1), 0, 3)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert words.tolist() == [8005, 0]


@pytest.mark.parametrize(
    ("machine", "instruction"),
    [("x86_64", "pause"), ("aarch64", "isb"), ("arm64", "isb"), ("riscv64", None)],
)
def test_a_core_rests_between_turns(machine: str, instruction: str | None) -> None:
    module = ir.Module()
    module.triple = f"{machine}-unknown-linux-gnu"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "rest")
    builder = ir.IRBuilder(function.append_basic_block())
    waiting._pause(builder)
    waiting._pause(builder)
    builder.ret_void()
    if instruction is None:
        assert "call" not in str(module)
        return
    assert assembly(module).split().count(instruction) == 2


def assembly(module: Any) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(module.triple)
    except RuntimeError:
        pytest.skip(f"this LLVM knows no {module.triple}")
    return str(target.create_target_machine().emit_assembly(llvm.parse_assembly(str(module))))


def test_code_is_made_for_one_cpu() -> None:
    cpu = detect_cpu()
    other = dataclasses.replace(cpu, name="another")
    assert waiting_source(cpu) == waiting_source(cpu)
    assert waiting_source(cpu).digest != waiting_source(other).digest
