"""Arguments become sources in a stable order; a source becomes an image or says by its name why not."""

from __future__ import annotations

import base64
import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.errors import SourceCode, SourceError
from idefics_cli.images import Limits, expand, is_url, load

LIMITS = Limits()


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.png, A.JPG and others; two levels of subfolders; a loop of links."""
    monkeypatch.chdir(tmp_path)
    for name in ("h/b.png", "h/A.JPG", "h/a10.heic", "h/notes.txt", "h/.hidden.png", "h/png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(png())
    for name in ("h/sub/c.webp", "h/sub/deep/d.tiff", "h/.secret/e.png", "h/z.png/f.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(png())
    Path("h/sub/loop").symlink_to(tmp_path / "h")
    Path("h/sub/self").symlink_to("self")
    return tmp_path / "h"


def listed(*arguments: str, recursive: bool = False) -> list[str]:
    return list(expand(arguments, recursive=recursive))


def test_folder_is_its_direct_images(folder: Path) -> None:
    assert listed("h") == ["h/A.JPG", "h/a10.heic", "h/b.png"]
    assert listed("h/") == ["h/A.JPG", "h/a10.heic", "h/b.png"]
    assert listed(str(folder)) == [f"{folder}/A.JPG", f"{folder}/a10.heic", f"{folder}/b.png"]


def test_recursive_descends_once_into_everything(folder: Path) -> None:
    assert listed("h", recursive=True) == [
        "h/A.JPG",
        "h/a10.heic",
        "h/b.png",
        "h/sub/c.webp",
        "h/sub/deep/d.tiff",
        "h/z.png/f.png",
    ]


def test_linked_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    Path("data").mkdir()
    Path("data/cats").symlink_to(folder / "sub" / "deep")
    assert listed("data", recursive=True) == ["data/cats/d.tiff"]


def test_empty_folder_yields_nothing(tmp_path: Path) -> None:
    assert listed(str(tmp_path)) == []


def test_unreadable_subfolder_fails_by_its_name(folder: Path) -> None:
    (folder / "sub").chmod(0)
    with as_nobody(folder.parent):
        assert "h/sub" in listed("h", recursive=True)
        with pytest.raises(SourceError, match="is a folder, not an image; and it cannot be listed: Permission denied"):
            load("h/sub", LIMITS)
    (folder / "sub").chmod(0o755)


def test_order_is_that_of_arguments(folder: Path) -> None:
    assert listed("missing.png", "h/b.png", "-", "h/notes.txt", "https://x.org/*.png", "h/A.JPG") == [
        "missing.png",
        "h/b.png",
        "-",
        "h/notes.txt",
        "https://x.org/*.png",
        "h/A.JPG",
    ]


def test_patterns_are_expanded_as_a_shell_would(folder: Path) -> None:
    assert listed("h/[Ab]*") == ["h/A.JPG", "h/b.png"]
    assert listed("h/*.png") == ["h/b.png", "h/z.png/f.png"]
    assert listed("h/?.gif") == ["h/?.gif"]
    assert listed("**/b.png") == ["h/b.png"]


def test_existing_name_is_no_pattern(folder: Path) -> None:
    for name in ("a[1].png", "what?.png", "a1.png"):
        Path(name).write_bytes(png())
    assert listed("a[1].png", "what?.png") == ["a[1].png", "what?.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names in any bytes are a Linux matter")
def test_names_in_any_bytes_are_found_and_read(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9 \n\xff.png"
    Path(os.fsdecode(raw)).write_bytes(png("blue"))
    (source,) = listed(str(tmp_path))
    assert os.fsencode(source) == raw
    assert load(source, LIMITS).pixels.getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://a/b.png", True),
        ("HTTPS://a", True),
        ("data:image/png;base64,AA", True),
        ("DATA:,x", True),
        ("ftp://a/b", True),
        ("file:///a.png", True),
        ("a.png", False),
        ("-", False),
        ("http.png", False),
        ("C://a.png", False),
        ("C:\\a.png", False),
        ("what is http://a/b.png", False),
        ("", False),
    ],
)
def test_is_url(source: str, expected: bool) -> None:
    assert is_url(source) is expected


def fails(source: str, code: SourceCode, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        load(source, LIMITS)
    assert (caught.value.code, reason in str(caught.value)) == (code, True), str(caught.value)


def test_file_is_loaded(folder: Path) -> None:
    image = load("h/b.png", LIMITS)
    assert (image.source, image.pixels.size, image.warnings) == ("h/b.png", (2, 2), ())


def test_data_url_is_loaded() -> None:
    source = "data:image/png;base64," + base64.b64encode(png("blue")).decode()
    assert load(source, LIMITS).pixels.getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("source", ["missing.png", "a.png/b.png", "x" * 5000, "nul\0.png", "", "dangling", "self"])
def test_what_is_not_there_is_not_found(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(png())
    Path("dangling").symlink_to("nowhere")
    Path("self").symlink_to("self")
    fails(source, "not_found", "")


def test_forbidden_file_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    path.chmod(0)
    with as_nobody(tmp_path):
        fails(str(path), "not_found", "a.png cannot be read: Permission denied")


@pytest.mark.parametrize("source", ["ftp://a.org/b.png", "gopher://a"])
def test_other_schemes_are_refused(source: str) -> None:
    fails(source, "refused", "has a scheme that is not read; give ")


@pytest.mark.skipif(sys.platform == "win32", reason="no such files")
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.png")
    Path("folder.png").mkdir()
    Path("link.png").symlink_to("fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        for name in ("fifo.png", "link.png", "socket.png", "/dev/zero", "/dev/null"):
            fails(name, "not_an_image", f"{name} is a pipe, socket or device, not an image file; pipe the image")
    fails("folder.png", "not_an_image", "folder.png is a folder, not an image")


@contextmanager
def standard_input(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with io.TextIOWrapper(io.BytesIO(data)) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield


def test_standard_input_is_read_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with standard_input(png("blue"), monkeypatch):
        first, second = load("-", LIMITS), load("-", LIMITS)
    assert first.digest == second.digest
    assert first.pixels.getpixel((0, 0)) == (0, 0, 255)
    with standard_input(png("red"), monkeypatch):
        assert load("-", LIMITS).pixels.getpixel((0, 0)) == (255, 0, 0)
    with standard_input(b"", monkeypatch):
        fails("-", "not_an_image", "standard input is empty")


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with standard_input(png() + bytes(200), monkeypatch), pytest.raises(SourceError) as caught:
        load("-", Limits(max_bytes=100))
    assert caught.value.code == "too_large"


def test_missing_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    fails("-", "not_found", "standard input is not connected; pipe an image into it")


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """Give up root for a while: root may read everything, so nothing could be forbidden to it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for path in (folder, *folder.parents[:3]):
            if path != Path("/") and path != Path("/tmp"):
                path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
