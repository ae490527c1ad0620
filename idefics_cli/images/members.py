"""Sources inside a file, such as `data.parquet#17`: a row of a table, a member of a shard, a page of a document."""

from __future__ import annotations

import os
import re

_MARK = re.compile("#")
_PAGE = re.compile(r"(?P<document>.+\.pdf)#(?P<page>\d{1,6})", re.IGNORECASE | re.DOTALL)


def split_page(source: str) -> tuple[str, int] | None:
    """A document's name and the number of a page; None for any other source."""
    match = _PAGE.fullmatch(source) if "#" in source else None
    return None if match is None or os.path.lexists(source) else (match["document"], int(match["page"]))


def is_document_name(name: str) -> bool:
    """Whether a file has pages, by its name."""
    return name.lower().endswith(".pdf")


def split_member(source: str) -> tuple[str, str] | None:
    """A table's name and the image in it; None for any other source."""
    if "#" not in source:
        return None
    from ..records.formats import has_table_suffix  # which most runs have no use for

    for mark in _MARK.finditer(source):
        if has_table_suffix(source[: mark.start()]):
            return None if os.path.lexists(source) else (source[: mark.start()], source[mark.end() :])
    return None
