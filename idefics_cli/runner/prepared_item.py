"""An item before it reaches the model: its request, and the images of its prompt while they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..backends import Reading
from ..content import Content
from ..errors import ItemError, to_item_error
from ..values import Image, Item, Request


class Prepared(Protocol):
    """A request that a backend has prepared, and its bytes until it is answered."""

    @property
    def held_bytes(self) -> int: ...


Prepare = Callable[[Request, Mapping[str, Image]], Prepared]


@dataclass(slots=True, eq=False)
class Load:
    """One source that is being loaded, shared by all entries that show it."""

    source: str
    data: bytes | Path | None = None
    outcome: Image | ItemError | None = None
    users: int = 0
    is_shared: bool = False
    is_urgent: bool = False
    reading: Reading = "here"
    content: Content | None = None
    """What could not be decoded; that of an image is its own."""
    waiting: list[PreparedItem] = field(default_factory=list)

    @property
    def held(self) -> Content | None:
        return self.outcome.content if isinstance(self.outcome, Image) else self.content

    @property
    def waiting_bytes(self) -> int:
        """The bytes that are read and not decoded yet."""
        return len(self.data) if isinstance(self.data, bytes) else 0

    @property
    def held_bytes(self) -> int:
        return self.outcome.held_bytes if isinstance(self.outcome, Image) else 0


@dataclass(slots=True, eq=False)
class PreparedItem:
    """An item, its request (or why it cannot be worded) and the images of its prompt.

    Once it is `prepared`, only the names and warnings of its images are needed.
    """

    number: int
    item: Item
    request: Request | ItemError
    loads: dict[str, Load]
    is_taken: bool = False
    is_late: bool = False
    is_ready: bool = False
    prepared: Prepared | ItemError | None = None

    @property
    def is_loaded(self) -> bool:
        return all(load.outcome is not None for load in self.loads.values())

    @property
    def failure(self) -> ItemError | None:
        """Why it cannot be asked."""
        if isinstance(self.request, ItemError):
            return self.request
        outcomes = (load.outcome for load in self.loads.values())
        return next((one for one in outcomes if isinstance(one, ItemError)), None)

    @property
    def contents(self) -> tuple[Content | None, ...]:
        """The content of the item's own images; nothing if they were never read."""
        loads = (self.loads.get(source) for source in self.item.images)
        return tuple(load.held if load is not None else None for load in loads) if self.loads else ()

    @property
    def images(self) -> dict[str, Image]:
        return {source: load.outcome for source, load in self.loads.items() if isinstance(load.outcome, Image)}


def compose_item(item: Item, compose: Callable[[Item], Request]) -> Request | ItemError:
    """The request of an item, or its error."""
    try:
        return compose(item)
    except BaseException as error:
        return to_item_error(error)


def read_own(item: Item) -> Mapping[str, bytes | Path] | ItemError:
    """The images that came with an item, by their sources, or the error of reading them."""
    try:
        return {} if item.read_own is None else item.read_own()
    except BaseException as error:
        return to_item_error(error)
