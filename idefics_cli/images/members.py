"""Sources within a file: the row of a table, the member of a shard, the page of a document, as `data.parquet#17`."""

from __future__ import annotations

import os
import re

_MARK = re.compile("#")


def split_member(source: str) -> tuple[str, str] | None:
    """A table's name and which of its images; None for what is no such source."""
    if "#" not in source:
        return None
    from ..records.formats import has_table_suffix  # which most runs have no use for

    for mark in _MARK.finditer(source):
        if has_table_suffix(source[: mark.start()]):
            return None if os.path.lexists(source) else (source[: mark.start()], source[mark.end() :])
    return None
