"""Answers as XMP, beside images and within them, read back by exiftool; every other byte stays."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from idefics_cli.errors import BadItem
from idefics_cli.results.embedding import find_packet
from idefics_cli.results.xmp import Metadata, read_description, write_packet
from tests.program import Run
from tests.review.rows import read_rows
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
TEXT = 'A "red" circle & <square>, größer ✓'
LIGHTROOM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/" crs:Exposure2012="+0.35">
   <!-- kept --><dc:subject><rdf:Bag><rdf:li>holiday</rdf:li></rdf:Bag></dc:subject>
   <crs:ToneCurve><rdf:Seq><rdf:li>0, 0</rdf:li></rdf:Seq></crs:ToneCurve>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def exif(path: Path, *tags: str) -> dict[str, Any]:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    done = subprocess.run(["exiftool", "-json", *tags, path], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def save(path: Path, **more: Any) -> bytes:
    PIL.Image.new("RGB", (31, 17), (200, 30, 30)).save(path, **more)
    return path.read_bytes()


def count_common(before: bytes, after: bytes) -> int:
    """How many bytes of one are the beginning and the end of the other."""
    first = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    rest = zip(reversed(before[first:]), reversed(after), strict=False)
    last = next((n for n, (a, b) in enumerate(rest) if a != b), len(before) - first)
    return first + last


TAGS = ("-XMP-dc:Description", "-XMP-dc:Subject", "-XMP-iptcCore:AltTextAccessibility", "-Warning")


def test_a_sidecar_is_read_by_exiftool_and_what_lightroom_wrote_stays(run: Program, tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "b.jpg")
    (tmp_path / "b.xmp").write_text(LIGHTROOM, encoding="utf-8")
    command = ("caption", tmp_path, "--sidecar", "xmp", *MODEL)
    result = run(*command, backend=ScriptedBackend(f" {TEXT}"))
    assert result.code == 0, result.stderr
    for name in ("a", "b"):
        found = exif(tmp_path / f"{name}.xmp", *TAGS)
        assert (found["Description"], found["AltTextAccessibility"]) == (TEXT, TEXT)
        assert "Warning" not in found
    content = (tmp_path / "b.xmp").read_text(encoding="utf-8")
    for kept in (
        "<!-- kept -->",
        'crs:Exposure2012="+0.35"',
        "<rdf:li>0, 0</rdf:li>",
        'x:xmptk="Adobe XMP Core 7.0"',
    ):
        assert kept in content
    found = exif(tmp_path / "b.xmp", "-Subject", "-XMP-crs:all")
    assert (found["Subject"], found["ToneCurve"]) in (("holiday", "0, 0"), (["holiday"], ["0, 0"]))
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    assert backend.requests == []  # they are there
    edited = content.replace("größer", "mine")
    (tmp_path / "b.xmp").write_text(edited, encoding="utf-8")
    result = run(*command, backend=ScriptedBackend(" new"))
    assert "1 text that idefics did not write is kept" in result.stderr
    assert (tmp_path / "b.xmp").read_text(encoding="utf-8") == edited
    run(*command, "--overwrite-foreign", backend=ScriptedBackend(" new"))
    assert exif(tmp_path / "b.xmp", *TAGS)["Description"] == "new"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.jpg", {}),
        ("b.jpg", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
        ("c.png", {}),
        ("d.webp", {}),
        ("e.webp", {"lossless": True}),
        ("f.jpg", {"xmp": LIGHTROOM.encode()}),
        ("g.webp", {"xmp": LIGHTROOM.encode()}),
    ],
)
def test_metadata_goes_into_an_image_and_its_pixels_stay(
    run: Program, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    path = tmp_path / name
    before = save(path, **more)
    command = ("classify", path, "--labels", "cat,dog", "--write-metadata", *MODEL)
    result = run(*command, backend=ScriptedBackend())
    assert result.code == 0, result.stderr
    after = path.read_bytes()
    with PIL.Image.open(io.BytesIO(before)) as old, PIL.Image.open(io.BytesIO(after)) as new:
        new.load()
        assert old.tobytes() == new.tobytes()
    packet, former = find_packet(after), find_packet(before)
    assert packet is not None
    if not name.endswith(".webp"):  # whose sizes and flags are before it
        assert count_common(before, after) >= len(before) - len(former or b"") - (50 if former else 0)
    found = exif(path, *TAGS, "-XMP-crs:all")
    assert (found["Description"], found.get("Warning")) == ("cat", None)
    assert "cat" in found["Subject"]
    if former is not None:
        assert "holiday" in found["Subject"]
        assert found["ToneCurve"]
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    assert backend.requests == []
    assert path.read_bytes() == after


def test_rows_go_on_though_their_images_have_changed_by_metadata(run: Program, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    rows = tmp_path / "rows.jsonl"
    command = ("caption", tmp_path / "a.png", "--write-metadata", "-o", rows, *MODEL)
    assert run(*command, backend=ScriptedBackend()).code == 0
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    assert (backend.requests, len(read_rows(rows))) == ([], 1)


def test_other_formats_are_left_as_they_are(run: Program, tmp_path: Path) -> None:
    before = save(tmp_path / "a.tif")
    result = run("caption", tmp_path / "a.tif", "--write-metadata", *MODEL, backend=ScriptedBackend())
    assert "metadata of 1 not written" in result.stderr
    assert "--sidecar xmp" in result.stderr
    assert (tmp_path / "a.tif").read_bytes() == before


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>' + "<x:xmpmeta>&b;</x:xmpmeta>"


@pytest.mark.parametrize("packet", [BOMB, "no", "<a/>", "<a>" * 500, LIGHTROOM[:400], "\0\0"])
def test_packets_that_are_none_are_refused(packet: str) -> None:
    with pytest.raises(BadItem):
        write_packet(packet.encode(), Metadata("text"))


def test_a_text_survives_and_other_languages_stay() -> None:
    packet = write_packet(None, Metadata("one\x00\ud800 ]]> &amp;", ("a", "b")))
    assert read_description(packet) == "one\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} ]]> &amp;"
    german = packet.replace(
        b"</rdf:li></rdf:Alt></dc:d", b'</rdf:li><rdf:li xml:lang="de">eins</rdf:li></rdf:Alt></dc:d'
    )
    again = write_packet(german, Metadata("two", ("b", "c")))
    assert read_description(again) == "two"
    assert b'<rdf:li xml:lang="de">eins</rdf:li>' in again
    assert again.count(b"<rdf:li>b</rdf:li>") == 1
    assert again.count(b"dc:description>") == 2


def test_rows_become_xmp_and_a_list_for_exiftool(run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    save(Path("in/a.jpg"))
    save(Path("in/b.png"))
    rows = tmp_path / "rows.jsonl"
    run("classify", "in", "--labels", "cat,dog", "-o", rows, *MODEL, backend=ScriptedBackend())
    assert run("convert", rows, "--to", "xmp", "-o", "meta").code == 0
    assert exif(Path("meta/in/a.xmp"), *TAGS)["Description"] == "cat"
    assert run("convert", rows, "--to", "exiftool").code == 0
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-json=rows.json", "in"], check=True)
    found = exif(Path("in/b.png"), *TAGS)
    assert (found["Description"], found["Subject"], found["AltTextAccessibility"]) == ("cat", "cat", "cat")
