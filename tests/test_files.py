"""Files on a real disk: whole or not there, never through a link, and nothing waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from idefics_cli.files import lock, open_draft, read_file, write_file


def test_a_file_is_replaced_in_one_step_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "a.txt", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("mine")
    victim.chmod(0o600)
    link.symlink_to("victim")
    write_file(link, b"new")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_the_longest_name_has_room_for_a_draft(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".txt")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_goes_wrong_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_draft(tmp_path / "a.txt"):
        raise ZeroDivisionError
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "folder", b"new")
    assert os.listdir(tmp_path) == ["folder"]


def test_only_files_of_some_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    for path, reason in (
        (tmp_path / "pipe", "a named pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
        (tmp_path / "large", "more than 10 bytes"),
    ):
        with pytest.raises(OSError, match=reason):
            read_file(path, 10)
    assert read_file(tmp_path / "large", 11) == bytes(11)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert lock(one)
    assert not lock(other)
    os.close(one)
    assert lock(other)
    os.close(other)
