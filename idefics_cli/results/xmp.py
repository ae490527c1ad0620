"""XMP packets: what Lightroom, digiKam and screen readers show of an image. All other bytes of a packet are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from ..errors import BadItem

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
DESCRIPTION, SUBJECT, ALT_TEXT = f"{_DC} description", f"{_DC} subject", f"{_IPTC} AltTextAccessibility"
_OURS = (DESCRIPTION, SUBJECT, ALT_TEXT)
_LANG = "http://www.w3.org/XML/1998/namespace lang"
_ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_NEW = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f'<rdf:RDF xmlns:rdf="{_RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
).encode()
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an answer says about its image."""

    description: str
    keywords: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """Our properties in a packet: where they are, and their content."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[bytes]] = field(default_factory=dict)
    """Texts in other languages, as they stand."""
    about: str = ""
    end: int = -1
    """Where the packet's last property may stand."""


def read_description(packet: bytes) -> str | None:
    """The description in a packet, without a language or in the default one; None if there is none."""
    texts = _find(packet).texts.get(DESCRIPTION)
    return texts[0] if texts else None


def write_packet(packet: bytes | None, metadata: Metadata) -> bytes:
    """The packet with a description, which is also the alternative text, and keywords added to those it has.

    Raises BadItem if it is not XMP in UTF-8.
    """
    old = packet if packet is not None else _NEW
    found = _find(old)
    keywords = list(dict.fromkeys((*found.texts.get(SUBJECT, ()), *metadata.keywords)))
    end, pieces, place = found.end, [], 0
    for start, stop in sorted(found.spans):
        pieces.append(old[place:start])
        place = stop
    pieces += [old[place:end], _write_properties(metadata.description, keywords, found), old[end:]]
    return b"".join(pieces)


def _write_properties(description: str, keywords: Sequence[str], found: _Found) -> bytes:
    text = _clean(description)
    about = escape(found.about, {'"': "&quot;"})
    lines = [f'<rdf:Description xmlns:rdf="{_RDF}" xmlns:dc="{_DC}" xmlns:Iptc4xmpCore="{_IPTC}" rdf:about="{about}">']
    for name, key in (("dc:description", DESCRIPTION), ("Iptc4xmpCore:AltTextAccessibility", ALT_TEXT)):
        others = b"".join(found.others.get(key, ())).decode()
        lines.append(f'<{name}><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li>{others}</rdf:Alt></{name}>')
    if keywords:
        items = "".join(f"<rdf:li>{_clean(one)}</rdf:li>" for one in keywords)
        lines.append(f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>")
    return ("\n".join(lines) + "\n</rdf:Description>\n").encode()


def _clean(text: str) -> str:
    return escape(_ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text))


def _find(packet: bytes) -> _Found:
    """Raises BadItem if it is no packet, or defines entities."""
    content = packet.rstrip(b"\0")
    found = _Found()
    path: list[str] = []
    begins: list[int] = []
    words: list[str] = []
    languages: list[str] = []
    parser = expat.ParserCreate("UTF-8", " ")

    def refuse(*_: Any) -> None:
        raise BadItem("its XMP defines entities, which is not allowed")

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(path) >= MAX_DEPTH:
            raise BadItem("its XMP is nested too deeply")
        if name == f"{_RDF} Description" and len(path) and path[-1] == f"{_RDF} RDF":
            found.about = found.about or attributes.get(f"{_RDF} about", "")
        path.append(name)
        begins.append(parser.CurrentByteIndex)
        if name == f"{_RDF} li":
            words.clear()
            languages.append(attributes.get(_LANG, "x-default"))

    def end(name: str) -> None:
        path.pop()
        begin = begins.pop()
        here = parser.CurrentByteIndex
        stop = content.index(b">", here) + 1
        is_property = name in _OURS and len(path) > 1 and path[-1] == f"{_RDF} Description"
        if is_property and path[-2] == f"{_RDF} RDF":
            found.spans.append((begin, stop))
        elif name == f"{_RDF} li":
            language = languages.pop()
            owner = next((one for one in reversed(path) if one in _OURS), None)
            if owner is not None and (language == "x-default" or owner == SUBJECT):
                found.texts.setdefault(owner, []).append("".join(words))
            elif owner is not None:
                found.others.setdefault(owner, []).append(content[begin:stop])
        elif name == f"{_RDF} RDF":
            if here == begin:
                raise BadItem("its XMP is empty in an unusual way")
            found.end = here

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = words.append
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, UnicodeError) as error:
        raise BadItem("its XMP cannot be read", hint="remove it, or write it again with another program") from error
    if found.end < 0:
        raise BadItem("its XMP has no RDF in it")
    return found
