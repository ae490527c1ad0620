"""Webdataset shards: a tar read once from end to end; consecutive members with one key are a sample.

Nothing is unpacked: the name of a member is only a name, and links are not followed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Any, Self

from ..errors import UsageError
from ..images.formats import has_image_suffix
from .opening import open_table
from .record import CellChoice, Record
from .where import hold

KEY = "__key__"
MAX_TEXT_BYTES = 1_000_000
MAX_MEMBERS = 1000
"""Of one sample."""
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, ArithmeticError)
_LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_TEXTS = ("txt", "text", "caption", "cls", "id")


class _Member(tarfile.TarInfo):
    """A member with a complete header: tarfile treats a shard that breaks off at one as ended."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise EOFError("it has no end mark") from error

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Any:
        """Bound the size of extended headers, which tarfile reads whole."""
        if self.type in _LONG_HEADERS and self.size > MAX_TEXT_BYTES:
            raise tarfile.ReadError(f"a header has more than {MAX_TEXT_BYTES:,} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]  # which tarfile lets be overridden


@dataclass(slots=True)
class _Sample:
    """Consecutive members with one key."""

    key: str
    cells: dict[str, Any] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    members: int = 0
    problem: str = ""


class ShardReader:
    """Samples in the order of their first members. Texts and the keys of a JSON object are cells like any other."""

    def __init__(self, name: str, wanted: CellChoice) -> None:
        self._name, self._wanted = name, wanted
        self.image = wanted.image or ""
        try:
            with closing(open_table(name)) as file, tarfile.open(fileobj=file, mode="r|*"):
                pass
        except _DAMAGE as error:
            raise UsageError(f"{name} is not a readable tar file") from error

    def count_groups(self) -> list[int]:
        return []

    def read(self, groups: Collection[int] | None = None) -> Iterator[Record]:
        place = 0
        with closing(open_table(self._name)) as file:
            for sample in self._read_samples(file):
                place += 1
                sample.cells.setdefault(KEY, sample.key)
                name = f"{self._name}#{sample.key}"
                if not sample.problem and not self.image and len(sample.images) > 1:
                    some = ", ".join(sample.images[:5])
                    sample.problem = f"has {len(sample.images)} images ({some}); choose one with --image-column"
                if sample.problem or hold(self._wanted.conditions, sample.cells):
                    if sample.images:
                        sample.cells[self.image] = sample.cells.pop(sample.images[0])
                        name += f".{sample.images[0]}"
                    yield Record(name, place, sample.cells, problem=sample.problem)

    def _read_samples(self, file: IO[bytes]) -> Iterator[_Sample]:
        sample: _Sample | None = None
        try:
            with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar:
                while (member := tar.next()) is not None:
                    vars(tar)["members"] = []  # which would grow with the shard
                    if member.isdir():
                        continue
                    key, extension = _split(member.name)
                    if sample is None or sample.key != key:
                        if sample is not None:
                            yield sample
                        sample = _Sample(key)
                    self._add(sample, extension, member, tar)
        except _DAMAGE as error:
            sample = sample or _Sample("0")
            sample.problem = f"the shard is damaged from here on ({str(error)[:100] or type(error).__name__})"
        if sample is not None:
            yield sample

    def _add(self, sample: _Sample, extension: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """Read a wanted member. If it cannot be used, the sample has a problem."""
        sample.members += 1
        is_image = extension == self.image if self.image else has_image_suffix(f"x.{extension}")
        parts = member.name.split("/")
        if ".." in parts or member.name.startswith("/"):
            sample.problem = "its name leads out of the archive"
        elif sample.members > MAX_MEMBERS:
            sample.problem = f"has more than {MAX_MEMBERS:,} members of one key"
        elif is_image and not member.isfile():
            sample.problem = "is a link or a device in the archive, not a file"
        elif is_image and member.size > self._wanted.max_bytes:
            sample.problem = f"has more than {self._wanted.max_bytes:,} bytes"
        elif is_image:
            if not self.image and sample.images:
                sample.images.append(extension)  # it is enough to know that there is another
                return
            sample.cells[extension] = _read(tar, member)
            sample.images.append(extension)
        elif extension == "json" and member.isfile() and member.size <= MAX_TEXT_BYTES:
            sample.cells = _read_object(_read(tar, member)) | sample.cells  # whose images stay images
        elif extension in self._texts and member.isfile() and member.size <= MAX_TEXT_BYTES:
            sample.cells[extension] = _read(tar, member).decode("utf-8", "surrogateescape").rstrip("\r\n")

    @property
    def _texts(self) -> Collection[str]:
        asked = (*self._wanted.columns, *(one.column for one in self._wanted.conditions))
        return {*_TEXTS, *asked}


def _split(name: str) -> tuple[str, str]:
    """The key and the extension of a name, split at the first dot of its last part, as webdataset does."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) < member.size:
        raise EOFError("it ends within a member")
    return content


def _read_object(text: bytes) -> dict[str, Any]:
    """The keys of a JSON object that become cells; nothing for other values."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else {}
