"""Compiled kernels are kept, shared, and never run unless they are ours."""

from __future__ import annotations

import hashlib
import inspect
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.full_disk import room_for

from hocket.runtime import kernel_cache
from hocket.runtime.errors import KernelCacheError
from hocket.runtime.kernel_cache import CACHE_VARIABLE, cache_folder, load_kernels
from hocket.runtime.kernels.source import KernelSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = '''"""A kernel that is quickly compiled."""

from numba import intp, njit


@njit(intp(intp), nogil=True, cache=True)
def double(number):
    return 2 * number
'''

SOURCE = KernelSource(TEXT, hashlib.sha256(TEXT.encode()).hexdigest(), ("double",))

needs_users = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users on this system")


@pytest.fixture
def load_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Loads the kernel from this test's folder as a new process would."""

    def load() -> Any:
        monkeypatch.setattr(kernel_cache, "_loaded", {})
        return load_kernels(SOURCE, tmp_path)["double"]

    return load


def source_file(root: Path) -> Path:
    (path,) = (root / "kernels").glob("*.py")
    return path


def code_file(root: Path, suffix: str) -> Path:
    (path,) = (root / "kernels" / "__pycache__").glob(f"*{suffix}")
    return path


def is_from_cache(function: Any) -> bool:
    return bool(function.stats.cache_hits) and not function.stats.cache_misses


def test_kernel_stands_in_a_file_that_tracebacks_can_show(
    load_anew: Callable[[], Any], tmp_path: Path
) -> None:
    function = load_anew()
    assert function(21) == 42
    assert source_file(tmp_path).read_text() == TEXT
    assert inspect.getsource(function.py_func).endswith("return 2 * number\n")


def test_second_load_does_not_compile(load_anew: Callable[[], Any]) -> None:
    assert not is_from_cache(load_anew())
    again = load_anew()
    assert is_from_cache(again)
    assert again(4) == 8


def test_callers_of_one_process_share_a_kernel(tmp_path: Path) -> None:
    assert load_kernels(SOURCE, tmp_path)["double"] is load_kernels(SOURCE, str(tmp_path))["double"]


@pytest.mark.parametrize(
    "foreign", ["", TEXT[:-4], TEXT.replace("2 *", "3 *"), "raise SystemExit('run')"]
)
def test_file_that_we_would_not_write_is_rewritten_and_not_run(
    load_anew: Callable[[], Any], tmp_path: Path, foreign: str
) -> None:
    load_anew()
    source_file(tmp_path).write_text(foreign)
    assert load_anew()(5) == 10
    assert source_file(tmp_path).read_text() == TEXT


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_changed_machine_code_is_made_anew(
    load_anew: Callable[[], Any], tmp_path: Path, suffix: str, damage: str
) -> None:
    load_anew()
    path = code_file(tmp_path, suffix)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "cut": content[:100], "empty": b""}[damage])
    function = load_anew()
    assert not is_from_cache(function)
    assert function(6) == 12
    assert is_from_cache(load_anew())


def test_machine_code_without_a_record_is_not_run(
    load_anew: Callable[[], Any], tmp_path: Path
) -> None:
    load_anew()
    (record,) = (tmp_path / "kernels").glob("*.sha256")
    record.unlink()
    assert not is_from_cache(load_anew())
    assert is_from_cache(load_anew())


def test_text_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    broken = KernelSource("1 / 0\n", "f" * 64, ("double",))
    with pytest.raises(ZeroDivisionError):
        load_kernels(broken, tmp_path)
    assert f"hocket_kernel_{'f' * 32}" not in sys.modules


def test_processes_may_compile_at_once(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from hocket.runtime.kernel_cache import load_kernels\n"
        "from hocket.runtime.kernels.source import KernelSource\n"
        "source = KernelSource(sys.stdin.read(), sys.argv[2], ('double',))\n"
        "assert load_kernels(source, sys.argv[1])['double'](7) == 14\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), SOURCE.digest]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [process.communicate(TEXT)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert source_file(tmp_path).read_text() == TEXT
    assert not list((tmp_path / "kernels").glob("*.tmp"))


@needs_users
def test_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    assert stat.S_IMODE(cache_folder(tmp_path).stat().st_mode) == 0o700


@needs_users
def test_folder_that_others_may_write_to_is_closed(tmp_path: Path) -> None:
    folder = cache_folder(tmp_path)
    folder.chmod(0o777)
    assert stat.S_IMODE(cache_folder(tmp_path).stat().st_mode) == 0o700
    assert folder.is_dir()


@needs_users
def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="folder of your own"):
        cache_folder(tmp_path)


def test_folder_comes_from_argument_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "environment"))
    assert cache_folder() == tmp_path / "environment" / "kernels"
    assert cache_folder(tmp_path / "argument") == tmp_path / "argument" / "kernels"


def test_a_cache_without_room_is_named_with_the_mend(
    load_anew: Callable[[], Any], tmp_path: Path
) -> None:
    with room_for(16), pytest.raises(KernelCacheError, match="set HOCKET_CACHE_DIR to a folder"):
        load_anew()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
