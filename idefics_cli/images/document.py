"""Pages of PDF documents, rendered by pypdfium2 in a process of its own: a page may be a program that never ends.

The process is limited in time and memory like that of any decoder, and the size of a page before it is rendered.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image

from ..errors import SourceError
from .deadline import Deadline
from .limits import Limits, check_size
from .names import name_source

POINTS = 72
"""Of a page, in an inch."""
_HEAD_BYTES = 1024
_LOCKED = "password"


def is_document(head: bytes) -> bool:
    """Whether data is a PDF by its header, before which other bytes may stand."""
    return b"%PDF-" in head[:_HEAD_BYTES]


def require(name: str) -> None:
    """Raise SourceError if the library is not installed."""
    if find_spec("pypdfium2") is None:
        hint = "pip install 'idefics-cli[pdf]'"
        raise SourceError(f"{name} is a PDF document, which needs an extra", code="not_an_image", hint=hint)


def draw_page(content: bytes | Path, page: int | None, name: str, limits: Limits, notes: list[str]) -> PIL.Image.Image:
    """Render a page by its number, or the first. Raises SourceError."""
    number = 1 if page is None else page
    import pypdfium2

    try:
        with _open(content) as document:
            pages = len(document)
            if not 1 <= number <= pages:
                there = "1 page" if pages == 1 else f"{pages:,} pages"
                raise SourceError(f"{name} is not there: the document has {there}", code="not_found")
            if page is None and pages > 1:
                notes.append(f"only the first of {pages:,} pages is used")
            chosen = document[number - 1]
            scale = limits.dpi / POINTS
            width, height = chosen.get_size()
            check_size(max(1, round(width * scale)), max(1, round(height * scale)), name, limits)
            drawn = chosen.render(scale=scale, fill_color=(*limits.background, 255), rev_byteorder=True)
            pixels: PIL.Image.Image = drawn.to_pil().convert("RGB")
            return pixels
    except pypdfium2.PdfiumError as error:
        raise _explain(error, name) from error


def count_here(content: bytes | Path, name: str) -> int:
    """How many pages a document has. Raises SourceError."""
    import pypdfium2

    try:
        with _open(content) as document:
            return len(document)
    except pypdfium2.PdfiumError as error:
        raise _explain(error, name) from error


def count_pages(path: Path, limits: Limits) -> int:
    """The number of pages of a document, found within its limits. Raises SourceError."""
    from .isolated import ask_decoder

    name = name_source(str(path))
    require(name)
    deadline = Deadline()
    deadline.start(limits.decode_seconds, name)
    reply, _ = ask_decoder({"counts_pages": True}, path, name, limits, deadline)
    return int(reply["pages"])


def _open(content: bytes | Path) -> Any:
    import pypdfium2

    document = pypdfium2.PdfDocument(content)
    document.init_forms()  # what was filled in is seen
    return document


def _explain(error: Exception, name: str) -> SourceError:
    if _LOCKED in str(error).lower():
        return SourceError(f"{name} is locked with a password", code="not_an_image", hint="save it without one")
    return SourceError(f"{name} is a PDF document that is damaged", code="not_an_image")
