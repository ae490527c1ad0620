"""Objects in a bucket, each put whole: what a folder is on a disk. Whatever its driver cannot do is a UsageError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ..errors import SourceError, UsageError
from ..images.names import name_source, parse_scheme
from ..images.remote import DRIVERS, LIST_SECONDS, call_driver, open_system

Given = TypeVar("Given")
CALL_SECONDS = 120.0
"""For one object, or one list of them, with all tries."""
LEAST_BYTES_PER_SECOND = 500_000
"""A large file gets more time."""


def is_bucket(name: str) -> bool:
    """Whether a name is a URL where objects can be put."""
    driver = DRIVERS.get(parse_scheme(name) or "")
    return driver is not None and driver.is_bucket and "::" not in name


class ObjectFolder:
    """The objects whose names begin with a URL."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that is no such place, or whose driver is missing."""
        self.url = url.rstrip("/")
        self.name = name_source(self.url)
        if not is_bucket(url):
            raise UsageError(f"{self.name} is not in a bucket", hint="name a file, or a place in s3, gs or az")
        self._system, self._path = self._call(lambda: open_system(self.url), "opened")

    def list_objects(self) -> list[tuple[str, int]]:
        """What is there, with its bytes. Raises UsageError where one object is."""

        def list_names() -> list[tuple[str, int]]:
            self._system.invalidate_cache()
            try:
                entries = self._system.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
            files = [(one["name"], one["size"]) for one in entries if one["type"] == "file"]
            if [name for name, _ in files] == [self._path]:
                raise SourceError(f"{self.name} is one object, not a folder", code="refused")
            return [(name.rpartition("/")[2], size) for name, size in files]

        return self._call(list_names, "read")

    def copy_to(self, path: Path) -> bool:
        """Copy the object that has the URL itself into a file; False if there is none."""

        def copy() -> bool:
            self._system.invalidate_cache()
            try:
                if self._system.info(self._path)["type"] != "file":
                    return False
            except FileNotFoundError:
                return False
            self._system.get_file(self._path, str(path))
            return True

        return self._call(copy, "read", LIST_SECONDS)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name, or one within it."""

        def look() -> bool:
            self._system.invalidate_cache()
            return bool(self._system.exists(self._place(name)))

        return self._call(look, "read")

    def read_object(self, name: str) -> bytes | None:
        """What is in an object; None if there is none."""

        def read() -> bytes | None:
            self._system.invalidate_cache()
            try:
                return bytes(self._system.cat_file(self._place(name)))
            except FileNotFoundError:
                return None

        return self._call(read, "read")

    def put_object(self, name: str, content: bytes) -> None:
        self._call(lambda: self._system.pipe_file(self._place(name), content), "written")

    def create_object(self, name: str, content: bytes) -> bool:
        """Put an object unless there is one of this name; False if there is."""

        def create() -> bool:
            try:
                self._system.pipe_file(self._place(name), content, mode="create")
            except FileExistsError:
                return False
            return True

        return self._call(create, "written")

    def put_file(self, name: str, path: Path) -> None:
        """Put a file, of whatever size, as an object that is there when all of it is."""
        seconds = max(CALL_SECONDS, path.stat().st_size / LEAST_BYTES_PER_SECOND)
        self._call(lambda: self._system.put_file(str(path), self._place(name)), "written", seconds)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:

            def remove(name: str = name) -> None:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm_file(self._place(name))

            self._call(remove, "removed")

    def _place(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _call(self, function: Callable[[], Given], what: str, seconds: float = CALL_SECONDS) -> Given:
        with _tell():
            return call_driver(function, self.name, seconds, what)


@contextlib.contextmanager
def _tell() -> Iterator[None]:
    """Failures of a driver as errors of the command."""
    try:
        yield
    except SourceError as error:
        raise UsageError(str(error)) from error
