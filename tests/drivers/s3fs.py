"""A bucket in the folder $BUCKETS, as the driver of s3:// has it: objects are there whole. It fails as it is told.

$BUCKETS/.faults has a line for each fault: the name of an object in part, and how often putting it fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

__version__ = "0"


class S3FileSystem(AbstractFileSystem):  # type: ignore[misc]  # it has no types
    """Objects as files."""

    protocol = ("s3", "s3a")
    cachable = False
    root_marker = ""

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """The object of this name, or what is within it."""
        there = self._place(path)
        if there.is_file():
            return [self._describe(there)]
        if not there.is_dir():
            raise FileNotFoundError(path)
        found = [self._describe(one) for one in sorted(there.iterdir()) if not one.name.startswith(".")]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if not self._place(path).exists():
            raise FileNotFoundError(path)
        return self._describe(self._place(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        return self._place(path).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._fail(path)
        there = self._place(path)
        if not self._place(path.partition("/")[0]).is_dir():
            raise FileNotFoundError(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        draft = there.with_name(f".{there.name}.{os.getpid()}")
        draft.write_bytes(value)
        if mode != "create":
            draft.replace(there)
            return
        try:
            os.link(draft, there)
        finally:
            draft.unlink()

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        shutil.copyfile(self._place(rpath), lpath)

    def rm_file(self, path: str) -> None:
        self._place(path).unlink()

    def _describe(self, place: Path) -> dict[str, Any]:
        name = place.relative_to(os.environ["BUCKETS"]).as_posix()
        return {
            "name": name,
            "size": place.stat().st_size,
            "type": "directory" if place.is_dir() else "file",
        }

    def _place(self, path: str) -> Path:
        return Path(os.environ["BUCKETS"], self._strip_protocol(path))

    def _fail(self, path: str) -> None:
        faults = Path(os.environ["BUCKETS"], ".faults")
        lines = faults.read_text().split() if faults.exists() else []
        for place, (name, left) in enumerate(zip(lines[::2], map(int, lines[1::2]), strict=True)):
            if name in path and left:
                lines[2 * place + 1] = str(left - 1)
                faults.write_text(" ".join(lines))
                raise ConnectionResetError("Connection reset by peer: https://AKIAEXAMPLEEXAMPLE01:secret@bucket")
