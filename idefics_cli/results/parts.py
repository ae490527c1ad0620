"""Rows in a bucket: `rows.jsonl/part-00000-….jsonl`, and `rows.jsonl/_manifest.json` once every item has one.

A part is put whole and never changed. Its name has a digest of its content, so that what is damaged or half there is
not taken for whole. Of two parts of one number the shorter is the newer one: it lacks rows that were replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .objects import ObjectFolder

MANIFEST = "_manifest.json"
_DIGITS = 16
_NAME = re.compile(rf"part-(\d{{5,9}})-([0-9a-f]{{{_DIGITS}}})\.jsonl")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One object of rows."""

    number: int
    size: int
    digest: str

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}-{self.digest}.jsonl"


class PartStore(ObjectFolder):
    """The objects of one file of rows."""

    def list(self) -> list[Part]:
        """The parts in order, the newest of each number."""
        found = [
            Part(int(match[1]), size, match[2])
            for name, size in self.list_objects()
            if (match := _NAME.fullmatch(name)) is not None
        ]
        return list({part.number: part for part in sorted(found, reverse=True)}.values())[::-1]

    def read(self, part: Part) -> bytes:
        """The rows of a part. Raises UsageError for one that is not what its name says."""
        content = self.read_object(part.name)
        if content is None or digest(content)[:_DIGITS] != part.digest:
            raise UsageError(
                f"{self.name}/{part.name} is damaged", hint="remove it; the same command answers its items"
            )
        return content

    def put(self, number: int, content: bytes) -> Part:
        part = Part(number, len(content), digest(content)[:_DIGITS])
        self.put_object(part.name, content)
        return part


def fetch_rows(url: str, path: Path) -> bool:
    """Copy all rows of a bucket, in parts or one object, into a file; whether they are all. Raises UsageError."""
    store = PartStore(url)
    if store.copy_to(path):
        return True
    parts = store.list()
    manifest = store.read_object(MANIFEST)
    if not parts and manifest is None:
        raise UsageError(f"{store.name} has no rows", hint=f"make some with --output {store.name}")
    if manifest is not None and list_names(manifest) != [part.name for part in parts]:
        raise UsageError(
            f"{store.name} does not have the parts that its {MANIFEST} names",
            hint="run the command that made it again",
        )
    with open(path, "wb") as stream:
        for part in parts:
            stream.write(store.read(part))
    return manifest is not None


def write_manifest(parts: Iterable[Part], rows: Path) -> bytes:
    """What says that these parts are all, with the digests of their content, which is that of a file."""
    listed: list[dict[str, Any]] = []
    count = 0
    with open(rows, "rb") as stream:
        for part in parts:
            content = stream.read(part.size)
            count += (own := content.count(b"\n"))
            listed.append({"name": part.name, "rows": own, "bytes": part.size, "sha256": digest(content)})
    return f"{json.dumps({'rows': count, 'parts': listed}, indent=1)}\n".encode()


def list_names(manifest: bytes) -> list[str]:
    """The names of the parts in a manifest; none for what is none."""
    try:
        return [str(one["name"]) for one in json.loads(manifest)["parts"]]
    except (ValueError, LookupError, TypeError):
        return []


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
