"""Files appear whole or not at all, and nothing but a regular file is ever replaced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hocket.runtime.files import atomic_file, check_writable, errors_naming


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with contextlib.suppress(RuntimeError), atomic_file(path) as file:
        file.write(b"two")
        raise RuntimeError
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_users_mask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_what_is_no_regular_file_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="not a regular file"), atomic_file(tmp_path / "pipe"):
        pass
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path / "folder"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.hkt"
    with pytest.raises(FileNotFoundError) as caught, atomic_file(path):
        pass
    assert caught.value.filename == str(path)


def test_where_there_is_no_room_the_file_is_named(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"some")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_could_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    check_writable(tmp_path / "a")
    check_writable(tmp_path / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert (tmp_path / "a").read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)


def test_errors_name_what_their_user_knows(tmp_path: Path) -> None:
    wanted, beside = tmp_path / "wanted", tmp_path / ".wanted.1.tmp"
    for filename in (None, str(beside), str(beside / "part")):
        with pytest.raises(OSError, match="no room") as caught, errors_naming(wanted, beside):
            raise OSError(28, "no room", filename)
        assert caught.value.filename == str(wanted)
    with pytest.raises(FileNotFoundError) as missing, errors_naming(wanted, beside):
        (tmp_path / "another").read_bytes()
    assert missing.value.filename == str(tmp_path / "another")
