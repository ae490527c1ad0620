"""Names of sources: what kind they are of, which are pages of a document, and what messages call them.

In messages a name is one printable line without secrets: passwords and query strings (signed links) of URLs and the
content of data URLs are left out.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Collection, Sequence

# Two letters at least, so that C:// stays a path.
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*)?")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
REMOTE_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "zip"})
"""What is read by a driver: buckets, the hub, archives."""
_PAGE = re.compile(r"(?P<document>.+\.pdf)#(?P<page>\d{1,6})", re.IGNORECASE | re.DOTALL)


def parse_scheme(source: str) -> str | None:
    """The lower-case scheme of a URL, None for a path or "-"."""
    if source[:5].lower() == "data:":
        return "data"
    match = _SCHEME.match(source)
    return match[1].lower() if match else None


def to_path(url: str) -> str:
    """The path of a `file://` URL, in whatever bytes it is."""
    path = re.split("[?#]", url[len("file://") :])[0]
    return os.fsdecode(urllib.parse.unquote_to_bytes(path.removeprefix("localhost")))


def name_source(source: str) -> str:
    """The name of this source in messages."""
    scheme = parse_scheme(source)
    if source == "-":
        return "standard input"
    if scheme == "data":
        return "the data URL"
    if scheme is None:
        return _UNPRINTABLE.sub(_escape, source) or "''"
    if "::" in source and scheme in REMOTE_SCHEMES:  # an archive within another place
        return "::".join(name_source(one) for one in source.split("::"))
    rest = source[len(scheme) + 3 :]
    authority, slash, tail = re.split(r"([/?#]|$)", rest, maxsplit=1)
    host = authority.rpartition("@")[2]
    if not _AUTHORITY.fullmatch(host):
        # A stray : may be what is left of a password that has a slash in it.
        return f"{scheme}://…"
    path, query, _ = re.split(r"([?#]|$)", slash + tail, maxsplit=1)
    return _UNPRINTABLE.sub(_escape, f"{scheme}://{host}{path}") + ("?…" if query == "?" else "")


def name_own_fields(sources: Sequence[str], wanted: Collection[str]) -> dict[str, str]:
    """`stem` (file name without suffix) and `parent` (name of the folder) of the first image, those that are wanted.

    Standard input and data URLs have neither. Bytes that are not UTF-8 are shown as replacement characters.
    """
    scheme = parse_scheme(sources[0]) if sources else "none"
    if not sources or sources[0] == "-" or scheme == "data":
        return {}
    if scheme is None:
        path = os.path.abspath(sources[0])
    else:
        path = urllib.parse.unquote(re.split("[?#]", sources[0].partition("://")[2])[0])
    folder, name = os.path.split(path)
    found = {"stem": os.path.splitext(name)[0], "parent": os.path.basename(folder)}
    return {
        field: value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for field, value in found.items()
        if field in wanted
    }


def split_page(source: str) -> tuple[str, int] | None:
    """A document's name and the number of a page; None for any other source."""
    match = _PAGE.fullmatch(source) if "#" in source else None
    return None if match is None or os.path.lexists(source) else (match["document"], int(match["page"]))


def is_document_name(name: str) -> bool:
    """Whether a file has pages, by its name."""
    return name.lower().endswith(".pdf")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        # A byte of a file name that is not UTF-8, as os.fsdecode hides it.
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
