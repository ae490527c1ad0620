"""No file keeps a decoder busy beyond its time, and what can be given up is given up."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import PIL.Image
import pytest

from idefics_cli.errors import SourceError
from idefics_cli.images import Deadline, Limits, decode
from tests.images.matrix import chunk, colours, quantize, raw_tiff, write_png
from tests.rivals import count_rivals

HASTY = Limits(decode_seconds=1.0)
GRACE_SECONDS = 1.0


def of_scans() -> bytes:
    """A progressive JPEG of 1.2 MB whose last scan comes tens of thousands of times."""
    buffer = io.BytesIO()
    PIL.Image.new("L", (4000, 4000), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (1_200_000 // len(scan)) + data[-2:]


def of_directories(count: int = 200_000, *, are_reduced: bool = False) -> bytes:
    body = bytearray(raw_tiff(bytes(64 * 48), bits=8, photometric=1, subfile=int(are_reduced)))
    (start,) = struct.unpack_from("<I", body, 4)
    directory, link = bytes(body[start:-4]), len(body) - 4
    for _ in range(count):
        struct.pack_into("<I", body, link, len(body))
        body += directory + bytes(4)
        link = len(body) - 4
    return bytes(body)


def of_frames() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("P", (1, 1)).save(buffer, "GIF")
    data = buffer.getvalue()
    start = data.index(b",")
    return data[:start] + data[start:-1] * 1_500_000 + b";"


def of_texts() -> bytes:
    return write_png(quantize(colours(), 8), 8, 2, chunk(b"tEXt", b"a\0b") * 2_000_000)


@pytest.mark.parametrize("make", [of_scans, of_directories, of_frames, of_texts])
def test_decoding_ends_in_time(make: Callable[[], bytes]) -> None:
    data = make()
    began = time.monotonic()
    try:
        outcome = str(decode(data, "slow", HASTY).warnings)
    except SourceError as error:
        outcome = f"{error.code}: {error}"[:45]
    assert outcome in {"('only the first frame is used',)", "timeout: slow takes longer than 1 s to decode"}
    assert time.monotonic() - began < HASTY.decode_seconds + GRACE_SECONDS * count_rivals()


def test_thumbnails_are_looked_through_only_so_far() -> None:
    began = time.monotonic()
    with pytest.raises(SourceError, match="holds only a thumbnail"):
        decode(of_directories(are_reduced=True), "thumbs", HASTY)
    assert time.monotonic() - began < count_rivals()


def test_a_decode_that_is_given_up_ends_at_once() -> None:
    data, deadline, codes = of_scans(), Deadline(), []

    def work() -> None:
        try:
            decode(data, "slow", Limits(), deadline)
        except SourceError as error:
            codes.append(error.code)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    deadline.give_up()
    thread.join(timeout=2 * count_rivals())
    assert not thread.is_alive()
    assert codes == ["timeout"]


def test_the_process_of_a_decode_serves_the_next_one() -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), "red").save(buffer, "JPEG2000")
    for _ in range(3):
        began = time.monotonic()
        assert decode(buffer.getvalue(), "a.jp2", Limits()).pixels.getpixel((3, 3)) == (255, 0, 0)
    assert time.monotonic() - began < 0.5 * count_rivals()


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="POSIX only")
def test_nothing_is_left_behind_and_nothing_said() -> None:
    """A process that decodes for us ends with us, and libraries keep their complaints to themselves."""
    probe = (
        "import sys\n"
        "from idefics_cli.errors import SourceError\n"
        "from idefics_cli.images import Limits, decode\n"
        "for line in sys.stdin:\n"
        "    try: decode(bytes.fromhex(line), 'x', Limits())\n"
        "    except SourceError: sys.stdout.write('refused ')\n"
        "    else: sys.stdout.write('decoded ')\n"
        "from idefics_cli.images import isolated\n"
        "sys.stdout.write(' '.join(map(str, isolated.decoders.idle_ids)))\n"
    )
    jp2, tiff = io.BytesIO(), io.BytesIO()
    PIL.Image.new("RGB", (64, 64), "red").save(jp2, "JPEG2000")
    PIL.Image.new("RGB", (64, 64), "red").save(tiff, "TIFF", compression="tiff_lzw")
    broken = tiff.getvalue()[:8] + bytes(200) + tiff.getvalue()[208:]
    samples = struct.Struct("<HHIHH")
    wide = raw_tiff(bytes(64 * 48), bits=8, photometric=1)
    wide = wide.replace(samples.pack(277, 3, 1, 1, 0), samples.pack(277, 3, 1, 259, 0))
    lines = "\n".join(data.hex() for data in (jp2.getvalue(), tiff.getvalue(), broken, wide))
    done = subprocess.run([sys.executable, "-c", probe], input=lines, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    *outcomes, pid = done.stdout.split()
    assert outcomes == ["decoded", "decoded", "refused", "refused"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
