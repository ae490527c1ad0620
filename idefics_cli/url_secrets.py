"""The secrets in a URL: passwords, and the signatures and tokens of its query."""

from __future__ import annotations

import re

_SCHEME, _AUTHORITY_END = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://"), re.compile(r"[/?#]")
_SIGNED = re.compile(
    r"([?&;](?:[\w.-]*(?:signature|token|secret|password|passwd|credential)|sig|sign|pwd|auth|authorization|policy|jwt"
    r"|hmac|(?:[\w.-]*[-_])?key|(?:api|access|aws\w*|key)[-_]?(?:key|pair)?[-_]?(?:id|key))=)[^&;#]*",
    re.IGNORECASE,
)


def hide_secrets(source: str) -> str:
    """A URL without its password and the signatures in its query; any other text unchanged."""
    if not (scheme := _SCHEME.match(source)):
        return source
    rest = source[scheme.end() :]
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    if "@" in authority:
        rest = rest[authority.rindex("@") + 1 :]
    return scheme[0] + _SIGNED.sub(r"\1…", rest)
