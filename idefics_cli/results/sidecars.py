"""Text files beside images: which one belongs to which image, and writing them whole.

Knows names and texts, not their meaning.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..content import has_changed
from ..errors import SourceError, UsageError
from ..files import read_file, write_file
from ..images import has_image_suffix, is_url, name_source, split_member
from ..values import Item
from .sidecar_index import Origin, SidecarIndex

MAX_BYTES = 1_000_000
"""A longer text cannot be part of a prompt."""
NAMED = 10_000
"""Of so many recent items, the one that shares a sidecar can be named."""
SidecarName = Literal["stem", "full"]
SidecarState = Literal["none", "same", "changed", "other", "foreign"]
LISTS = ("keywords", "tags", "labels")
"""What lists of keywords are called in an answer of a format."""


@dataclass(frozen=True, slots=True)
class Sidecars:
    """The files with `suffix` beside images: cat.txt beside cat.jpg, or cat.jpg.txt where `name` is full."""

    suffix: str = ".txt"
    name: SidecarName = "stem"
    is_of_image: ClassVar[bool] = False
    """Whether the texts are in the images themselves, which are others from then on."""
    index: SidecarIndex = field(default_factory=SidecarIndex, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.suffix.strip(".") or os.sep in self.suffix or "\0" in self.suffix:
            raise UsageError(f"{self.suffix!r} is not a file name extension", hint="write --sidecar .txt")
        if has_image_suffix(f"x{self.dotted}"):
            raise UsageError(f"a sidecar {self.dotted} would look like an image", hint="write --sidecar .txt")

    @property
    def dotted(self) -> str:
        return self.suffix if self.suffix.startswith(".") else f".{self.suffix}"

    def path_of(self, source: str) -> Path | None:
        """The sidecar of a source; None if it can have none: a URL, standard input, a row of a table."""
        if source in ("", "-") or is_url(source) or split_member(source) is not None:
            return None
        stem = source if self.name == "full" else os.path.splitext(source)[0]
        return Path(f"{stem}{self.dotted}")

    def check(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items in order. Raises UsageError for an item that shares its sidecar with another one.

        Of a long list only digests are kept, and the latest items to be named in messages.
        """
        taken: dict[int, int] = {}
        latest: deque[tuple[Path, Item]] = deque(maxlen=NAMED)
        for item in items:
            if not item.images:
                raise UsageError("--sidecar writes beside images, and there are none")
            if len(item.images) > 1:
                raise UsageError("--sidecar writes beside one image at a time", hint="leave out --together")
            path = self.path_of(item.images[0])
            if path is None:
                raise UsageError(
                    f"there is no place for a sidecar beside {name_source(item.images[0])}",
                    hint="name files and folders only, or use --output",
                )
            content = hash((item.images, item.fields))
            if taken.setdefault(hash(str(path)), content) != content:
                raise _describe_conflict(path, item, next((one for at, one in latest if at == path), None))
            latest.append((path, item))
            yield item

    def has(self, source: str) -> bool:
        path = self.path_of(source)
        return path is not None and os.path.exists(path)

    def inspect(self, source: str, wording: str) -> SidecarState:
        """Who wrote the text beside a source: this program for the same wording, for another one, or somebody else.

        It is `changed` if the image was replaced after the text was written.
        """
        path = self.path_of(source)
        if path is None or not os.path.lexists(path):
            return "none"
        try:
            origin = self.index.find(path, read_file(path, MAX_BYTES))
        except OSError:
            return "foreign"
        if origin is None:
            return "foreign"
        if origin.wording != wording:
            return "other"
        return "changed" if has_changed(origin.image, [source]) else "same"

    def read(self, source: str) -> str | None:
        """The text beside a source, or None if there is none. Raises SourceError for one that cannot be read."""
        path = self.path_of(source)
        if path is None:
            return None
        try:
            return read_file(path, MAX_BYTES).decode("utf-8-sig").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
            raise SourceError(f"{name_source(str(path))} cannot be read: {reason}", code="not_found") from error

    def write(self, source: str, text: str, origin: Origin | None = None, keywords: Sequence[str] = ()) -> None:
        """Write the text beside a source, whole or not at all. A link is replaced itself.

        Its origin is recorded; without that it counts as a person's text. Keywords are not written.
        """
        path = self.path_of(source)
        assert path is not None, "check was not called"
        try:
            content = f"{text}\n".encode("utf-8", "replace")
            if origin is not None:
                self.index.note(path, content, origin)
            write_file(path, content)
        except OSError as error:
            raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {name_source(str(path))}: {error.strerror}",
        hint="those before it are complete: run the same command again to continue",
    )


def list_keywords(label: Any, data: Any) -> tuple[str, ...]:
    """The label of an answer, and the texts in lists of its data, each once."""
    listed = [data.get(name) for name in LISTS] if isinstance(data, dict) else []
    words = [one for several in listed if isinstance(several, list) for one in several if isinstance(one, str)]
    return tuple(dict.fromkeys([*([label] if isinstance(label, str) and label else []), *words]))


def _describe_conflict(path: Path, item: Item, other: Item | None) -> UsageError:
    """Two items for one text; the other may be too long ago to be named."""
    name = name_source(item.images[0])
    if other is not None and other.images == item.images:
        return UsageError(
            f"several questions about {name} would share {name_source(str(path))}",
            hint="ask one, or use --output",
        )
    former = "another item" if other is None else name_source(other.images[0])
    return UsageError(f"{former} and {name} would share {name_source(str(path))}", hint="add --sidecar-name full")
