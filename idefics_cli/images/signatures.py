"""What kind of data a file has that no decoder reads, from its first bytes, and what to do about it."""

from __future__ import annotations

_DEVELOP = "develop it to JPEG or PNG first"
_CONVERT = "convert it to PNG first"
_UNPACK = "unpack it first"

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the image", "run git lfs pull"),
    (0, b"FUJIFILMCCD-RAW", "is a camera RAW file", _DEVELOP),
    (0, b"IIRO", "is a camera RAW file (Olympus)", _DEVELOP),
    (0, b"IIRS", "is a camera RAW file (Olympus)", _DEVELOP),
    (0, b"IIU\0", "is a camera RAW file (Panasonic)", _DEVELOP),
    (0, b"FOVb", "is a camera RAW file (Sigma)", _DEVELOP),
    (4, b"ftypcrx ", "is a camera RAW file (Canon CR3)", _DEVELOP),
    (0, b"v/1\x01", "is an OpenEXR image, which has a high dynamic range", "tone-map it to PNG first"),
    (0, b"#?R", "is a Radiance HDR image, which has a high dynamic range", "tone-map it to PNG first"),
    (0, b"PF\n", "is a floating-point colour map (PFM)", _CONVERT),
    (0, b"P7\n", "is a PAM image", _CONVERT),
    (128, b"DICM", "is a DICOM image, whose brightness range is not fixed", _CONVERT),
    (0, b"SIMPLE  =", "is a FITS image, whose brightness range is not fixed", _CONVERT),
    (0, b"\x93NUMPY", "is a NumPy array", "save it as PNG first"),
    (0, b"\x89HDF", "is an HDF5 file", _CONVERT),
    (0, b"gimp xcf", "is a GIMP drawing", "export it as PNG first"),
    (0, b"BLENDER", "is a Blender file", "render it to PNG first"),
    (0, b"icns", "is an Apple icon", _CONVERT),
    (0, b"\0\0\x02\0", "is a mouse pointer", _CONVERT),
    (0, b"\xd7\xcd\xc6\x9a", "is a Windows metafile, not an image of pixels", _CONVERT),
    (40, b" EMF", "is a Windows metafile, not an image of pixels", _CONVERT),
    (0, b"AT&TFORM", "is a DjVu document", "convert its pages to PNG first"),
    (0, b"%!PS", "is a PostScript file, which is a program", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "is a PostScript file, which is a program", _CONVERT),
    (0, b"BPG\xfb", "is a BPG image", _CONVERT),
    (0, b"8BPS\0\x02", "is a large Photoshop document (PSB)", "export it as PNG first"),
    (0, b"\xabKTX", "is a KTX texture", _CONVERT),
    (
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "is an Office document or a Thumbs.db",
        "export its images first",
    ),
    (0, b"PK\x03\x04", "is a ZIP archive or a document", _UNPACK),
    (0, b"\x1f\x8b", "is compressed with gzip", _UNPACK),
    (0, b"BZh", "is compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "is compressed with xz", _UNPACK),
    (0, b"(\xb5/\xfd", "is compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf", "is a 7z archive", _UNPACK),
    (0, b"Rar!", "is a RAR archive", _UNPACK),
    (257, b"ustar", "is a tar archive", _UNPACK),
    (0, b"ID3", "is a sound file", ""),
    (0, b"fLaC", "is a sound file", ""),
    (8, b"WAVE", "is a sound file", ""),
    (0, b"SQLite format 3", "is a database", ""),
    (0, b"\0\x05\x16\x07", "is macOS metadata about the file of the same name, not an image", ""),
    (0, b"\0\0\0\x01Bud1", "is a .DS_Store of macOS, not an image", ""),
    (0, b"\x7fELF", "is a program", ""),
    (0, b"MZ", "is a program", ""),
)
_VIDEOS = (
    (0, b"\x1a\x45\xdf\xa3"),
    (8, b"AVI "),
    (0, b"\x30\x26\xb2\x75"),
    (0, b"FLV\x01"),
    (0, b"\0\0\x01\xba"),
    (0, b"\0\0\x01\xb3"),
    (0, b"OggS"),
)
_STILL_BRANDS = (b"avi", b"hei", b"hev", b"mif", b"msf", b"crx", b"jxl")
_TEXT_BYTES = frozenset((9, 10, 12, 13, *range(32, 127), *range(128, 256)))


def describe_foreign(head: bytes, name: str) -> tuple[str, str]:
    """The kind of data, as the rest of a sentence, and what to do about it. `head` is its first kilobyte."""
    if is_video(head):
        file = name if name.isprintable() and "'" not in name and "://" not in name else "VIDEO"
        return "is a video", f"ffmpeg -i '{file}' -vf fps=1 frame-%04d.png makes images of it"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "is an SVG drawing, not an image of pixels", _CONVERT
    if text.startswith((b"<!doctype html", b"<html")) or b"<html" in text:
        return "is a web page (HTML), not an image", "give the address of the image itself"
    if text.startswith(b"%pdf"):
        return "is a PDF document, not an image", "convert its pages to PNG first"
    for place, signature, what, hint in _SIGNATURES:
        if head[place : place + len(signature)] == signature:
            return what, hint
    if not head.strip(b"\0"):
        return "contains only zeros", "its copy or download was interrupted; fetch it again"
    if text.startswith((b"{", b"[")) and _TEXT_BYTES.issuperset(head):
        return "is JSON, not an image", ""
    if text.startswith(b"<?xml"):
        return "is XML, not an image", ""
    if _TEXT_BYTES.issuperset(head):
        return "is text, not an image in a format that can be read", ""
    return "is not an image in a format that can be read", ""


def is_video(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        return not head[8:12].lower().startswith(_STILL_BRANDS)
    return any(head[place : place + len(mark)] == mark for place, mark in _VIDEOS)
