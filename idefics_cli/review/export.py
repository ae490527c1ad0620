"""The page as one file with its rows, small images and code, for any browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError
from ..files import write_file
from .corrections import review_path
from .server import read_static
from .session import ReviewSession

MAX_ROWS = 2000
MODULES = ("source.js", "card.js", "grid.js", "detail.js", "review.js")
"""In the order in which they need each other."""
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def write_html(session: ReviewSession, target: Path) -> int:
    """Write the page; returns its number of rows. Raises UsageError if there are too many."""
    count = session.index.count
    if count > MAX_ROWS:
        raise UsageError(
            f"{count:,} rows are too many for one page, which holds {MAX_ROWS:,}",
            hint=f"choose some of them: head -n {MAX_ROWS} {session.paths[0]} > some.jsonl",
        )
    page = build_page(collect_content(session))
    try:
        write_file(target, page.encode())
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    return count


def collect_content(session: ReviewSession) -> dict[str, Any]:
    """The content of the page."""
    shown = session.list_rows()
    pictures = []
    for row in shown:
        found = []
        for number in range(len(row["images"])):
            try:
                data = session.picture(row["row"], number, "small")
            except SourceError:
                found.append("")
            else:
                found.append(f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}")
        pictures.append(found)
    for place, row in enumerate(shown):
        row["who"] = session.who(row["row"])
        row["row"] = place
    counted = [row["label"] for row in shown if row["label"]]
    return {
        "name": " and ".join(path.name for path in session.paths),
        "reviewName": review_path(session.paths[0]).name,
        "isCompared": len(session.paths) > 1,
        "labels": sorted(set(counted), key=lambda label: (-counted.count(label), label))[:9],
        "rows": shown,
        "pictures": pictures,
    }


def build_page(content: dict[str, Any]) -> str:
    """The page with this content. Nothing in it can become code or markup, and it loads nothing."""
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", read_static(name).decode("utf-8"))) for name in MODULES)
    style = read_static("review.css").decode("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    data = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    page = read_static("index.html").decode("utf-8")
    head, body = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>',
        f'<script type="application/json" id="embedded">{data}</script>\n<script type="module">{script}</script>',
    )
    page = page.replace('<link rel="stylesheet" href="static/review.css">', head)
    page = page.replace('<script type="module" src="static/review.js"></script>\n', "")
    return page.replace("</body>", f"{body}\n</body>")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
