from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hocket import diagnosis
from hocket.installation import Part

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOCKET_CACHE_DIR", str(tmp_path / "cache"))


def test_a_sound_installation_has_no_problems() -> None:
    found = diagnosis.diagnose()
    assert found.problems == ()
    assert found.versions["hocket"]
    assert found.versions["numba"]
    assert found.vector_lanes in (4, 8, 16)
    assert 1 <= found.num_usable_cores <= found.num_cores
    assert found.numpy_blas


def test_packages_that_lack_or_will_not_do_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        Part("", "", ("no-such-package",), ()),
        Part("fl", "", ("not wanted",), ("torch 1.0 (want >=2.6)",)),
    )
    monkeypatch.setattr(diagnosis, "find_parts", lambda: parts)
    assert diagnosis.diagnose().problems == (
        "no-such-package is not installed; pip install hocket",
        "torch 1.0 (want >=2.6) will not do; pip install 'hocket[fl]'",
    )


def test_thread_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert diagnosis.diagnose().thread_variables["OMP_NUM_THREADS"] == "3"


def test_a_cache_is_measured(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"123")
    use = diagnosis.measure_cache("kernel", tmp_path)
    assert (use.num_entries, use.size_bytes, use.is_writable) == (2, 8, True)


def test_a_cache_that_is_not_there_yet_is_empty_and_can_be_made(tmp_path: Path) -> None:
    use = diagnosis.measure_cache("kernel", tmp_path / "not" / "there")
    assert (use.num_entries, use.is_writable) == (0, True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not diagnosis.measure_cache("kernel", tmp_path).is_writable
