"""A real server that misbehaves in every way: bytes come, or one line says why not, in bounded time."""

from __future__ import annotations

import base64
import email.utils
import gzip
import io
import logging
import socket
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import brotli  # type: ignore[import-untyped]
import httpx2
import imagecodecs
import PIL.Image
import pytest

from idefics_cli import __version__
from idefics_cli.errors import SourceCode, SourceError
from idefics_cli.images import Limits, load
from idefics_cli.images.addresses import is_public
from idefics_cli.images.fetch import PIECE_LETTERS, fetch
from tests.rivals import count_rivals
from tests.site import Page, Site, open_site

QUICK = Limits(backoff_seconds=0.01, connect_timeout_seconds=2, total_timeout_seconds=5, max_bytes=10_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as server:
        yield server


def fails(url: str, code: SourceCode, reason: str, limits: Limits = QUICK) -> str:
    with pytest.raises(SourceError) as caught:
        fetch(url, limits)
    message = str(caught.value)
    assert (caught.value.code, reason in message) == (code, True), message
    return message


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_bytes_come_and_we_say_who_asks(site: Site) -> None:
    url = site.serve("/a.png", (200, {"Content-Type": "text/plain"}, png()))
    assert fetch(url, QUICK) == png()
    assert load(url, QUICK).pixels.size == (2, 2)
    headers = site.asked[0][1]
    assert headers["User-Agent"] == f"idefics/{__version__}"
    assert headers["Accept-Encoding"] == "identity"


def test_html_named_png_is_no_image(site: Site) -> None:
    url = site.serve("/a.png", (200, {"Content-Type": "image/png"}, b"<!doctype html><p>Please log in"))
    with pytest.raises(SourceError, match="is a web page") as caught:
        load(url, QUICK)
    assert caught.value.code == "not_an_image"


def test_server_errors_are_retried(site: Site) -> None:
    assert fetch(site.serve("/a", (500, {}, b""), (503, {}, b""), (200, {}, b"ok")), QUICK) == b"ok"
    assert len(site.asked) == 3


def test_retries_end(site: Site) -> None:
    fails(site.serve("/a", (502, {}, b"")), "fetch_failed", "the server answered 502 Bad Gateway")
    assert len(site.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_our_errors_are_not_retried(site: Site, status: int) -> None:
    fails(site.serve("/a", (status, {}, b"")), "fetch_failed", f"the server answered {status}")
    assert len(site.asked) == 1


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured(site: Site, as_date: bool) -> None:
    # A date has whole seconds: 2 from now is more than 1.
    value = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    url = site.serve("/a", (429, {"Retry-After": value}, b""), (200, {}, b"ok"))
    start = time.monotonic()
    assert fetch(url, QUICK) == b"ok"
    assert 0.9 < time.monotonic() - start < 3 * count_rivals()


def test_long_retry_after_is_not_waited_for(site: Site) -> None:
    start = time.monotonic()
    fails(site.serve("/a", (429, {"Retry-After": "3600"}, b"")), "fetch_failed", "429 Too Many Requests")
    within_total = replace(QUICK, total_timeout_seconds=0.5)
    fails(site.serve("/b", (503, {"Retry-After": "2"}, b"")), "fetch_failed", "503", within_total)
    assert len(site.asked) == 2
    assert time.monotonic() - start < 2 * count_rivals()


def test_nonsense_retry_after_falls_back(site: Site) -> None:
    assert fetch(site.serve("/a", (429, {"Retry-After": "soon"}, b""), (200, {}, b"ok")), QUICK) == b"ok"


def drip(part: str) -> Callable[[Page], None]:
    def answer(page: Page) -> None:
        start = b"HTTP/1.1 200 OK\r\n"
        if part == "body":
            start += b"Content-Length: 9000\r\n\r\n"
        elif part == "chunk sizes":
            start += b"Transfer-Encoding: chunked\r\n\r\n1;"
        page.wfile.write(start)
        while not page.server.closing.wait(0.05):
            page.wfile.write(b"x")

    return answer


@pytest.mark.parametrize("part", ["headers", "body", "chunk sizes"])
def test_slow_drip_ends_at_the_total(site: Site, part: str) -> None:
    site.pages["/a"] = drip(part)
    start = time.monotonic()
    fails(site.url("/a"), "timeout", "took longer than 0.5 s", replace(QUICK, total_timeout_seconds=0.5))
    assert time.monotonic() - start < 1.5 * count_rivals()


def test_silent_server_ends_at_the_total(site: Site) -> None:
    site.pages["/a"] = lambda page: void(page.server.closing.wait(5))
    fails(site.url("/a"), "timeout", "took longer than 0.3 s", replace(QUICK, total_timeout_seconds=0.3))


def void(_: object) -> None:
    """A wait is not an answer."""


def test_content_length_too_small_is_not_overrun(site: Site) -> None:
    assert fetch(site.serve("/a", (200, {"Content-Length": "3"}, b"abcdef")), QUICK) == b"abc"


def test_content_length_too_large_is_a_broken_transfer(site: Site) -> None:
    fails(site.serve("/a", (200, {"Content-Length": "50"}, b"abc")), "fetch_failed", "cannot be fetched")
    assert len(site.asked) == 3


@pytest.mark.parametrize("declared", ["20000", "9" * 18])
def test_declared_size_is_refused_at_once(site: Site, declared: str) -> None:
    fails(site.serve("/a", (200, {"Content-Length": declared}, b"")), "too_large", "more than 10,000 bytes")
    assert len(site.asked) == 1


def test_undeclared_size_is_bounded(site: Site) -> None:
    def pour(page: Page) -> None:
        page.answer(200, {"Transfer-Encoding": "chunked"})
        while not page.server.closing.is_set():
            page.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")

    site.pages["/a"] = pour
    fails(site.url("/a"), "too_large", "more than 10,000 bytes")


def test_size_limit_is_inclusive(site: Site) -> None:
    assert len(fetch(site.serve("/a", (200, {}, b"x" * 10_000)), QUICK)) == 10_000
    fails(site.serve("/b", (200, {}, b"x" * 10_001)), "too_large", "")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site: Site, status: int) -> None:
    site.serve("/x/b", (status, {"Location": site.url("/c")}, b""))
    site.serve("/c", (200, {}, b"ok"))
    assert fetch(site.serve("/a", (status, {"Location": "x/b"}, b"")), QUICK) == b"ok"


def test_redirects_are_five_at_most(site: Site) -> None:
    for hop in range(6):
        site.serve(f"/{hop}", (302, {"Location": f"/{hop + 1}"}, b""))
    site.serve("/6", (200, {}, b"ok"))
    assert fetch(site.url("/1"), QUICK) == b"ok"
    fails(site.url("/0"), "fetch_failed", "redirects more than 5 times")
    fails(site.serve("/loop", (302, {"Location": "/loop"}, b"")), "fetch_failed", "redirects more than 5 times")


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/a", "file:///etc/passwd", "data:image/png;base64,AA"])
def test_redirect_to_another_scheme_is_refused(site: Site, location: str) -> None:
    fails(site.serve("/a", (302, {"Location": location}, b"")), "refused", "only http and https are followed")


def test_redirect_to_nowhere_fails(site: Site) -> None:
    fails(
        site.serve("/a", (302, {"Location": "http://[::1"}, b"")),
        "fetch_failed",
        "redirects to an invalid URL",
    )
    fails(site.serve("/b", (302, {}, b"")), "fetch_failed", "the server answered 302")


@pytest.mark.parametrize("url", ["http://[::1", "http:///a.png", "http://a\udce9/", "http://a:b:c/", "https://"])
def test_invalid_url_fails(url: str) -> None:
    fails(url, "fetch_failed", "")


def test_refused_connection_is_retried_and_told() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        fails(f"http://127.0.0.1:{closed.getsockname()[1]}/", "fetch_failed", "cannot be fetched: ")


def test_unknown_host_is_told() -> None:
    fails(
        "http://no-such-host.invalid/a.png",
        "fetch_failed",
        "http://no-such-host.invalid/a.png cannot be fetched",
    )


def test_credentials_are_used_but_never_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.serve("/a", (302, {"Location": "/b"}, b""))
    site.serve("/b?sig=hidden", (404, {}, b""))
    site.serve("/b", (404, {}, b""))
    with_password = site.url("/a").replace("//", "//me:s%40cret@")
    message = fails(with_password, "fetch_failed", "404")
    wanted = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert [headers.get("Authorization") for _, headers in site.asked] == [wanted, wanted]
    signed = fails(site.url("/b?sig=hidden"), "fetch_failed", "/b?… cannot")
    for text in (message, signed):
        assert "cret" not in text
        assert "hidden" not in text
    assert "cret" not in caplog.text
    for malformed in (
        "http://me:s/cret@host/",
        "https://me:s?cret@host/",
        "http://me:cret@[::1",
        "ftp://me:cret@a/",
    ):
        with pytest.raises(SourceError) as caught:
            load(malformed, QUICK)
        assert "cret" not in str(caught.value)


def test_credentials_do_not_follow_to_another_host(site: Site) -> None:
    site.serve("/b", (200, {}, b"ok"))
    elsewhere = site.url("/b").replace("127.0.0.1", "localhost")
    url = site.serve("/a", (302, {"Location": elsewhere}, b"")).replace("//", "//me:secret@")
    assert fetch(url, QUICK) == b"ok"
    assert ["Authorization" in headers for _, headers in site.asked] == [True, False]


def test_unusable_proxy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:1")
    fails("http://a.invalid/", "fetch_failed", "the proxy named in the environment cannot be used")


def test_no_proxy_is_heeded_before_a_proxy_is_judged(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(site.serve("/a.png", (200, {}, b"here")), QUICK) == b"here"
    away = site.serve("/away.png", (302, {"Location": "http://a.invalid/"}, b""))
    fails(away, "refused", "redirects to an address that needs a proxy")


PUBLIC_ONLY = replace(QUICK, allow_private_addresses=False)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.1.2.3"],
)
def test_private_address_is_refused(site: Site, host: str) -> None:
    site.serve("/a", (200, {}, b"secret"))
    url = site.url("/a").replace("127.0.0.1", host)
    fails(url, "refused", "leads to a private network address", PUBLIC_ONLY)
    assert site.asked == []


def test_private_address_is_refused_after_a_redirect(site: Site) -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(302, headers={"Location": site.url("/a")})

    with pytest.raises(SourceError) as caught:
        fetch("http://93.184.216.34/a", PUBLIC_ONLY, transport=httpx2.MockTransport(answer))
    assert caught.value.code == "refused"
    assert asked == ["http://93.184.216.34/a"]


def test_the_address_checked_is_the_address_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[str] = []

    def rebind(host: str, *args: Any, **options: Any) -> list[Any]:
        resolved.append(host)
        address = "93.184.216.34" if len(resolved) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == "93.184.216.34"
        assert request.url.port == 8443
        assert request.headers["host"] == "pics.example:8443"
        assert request.extensions["sni_hostname"] == "pics.example"
        return httpx2.Response(200, stream=httpx2.ByteStream(b"ok"))

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    transport = httpx2.MockTransport(answer)
    assert fetch("https://pics.example:8443/a", PUBLIC_ONLY, transport=transport) == b"ok"
    assert resolved == ["pics.example"]
    with pytest.raises(SourceError, match="private"):
        fetch("https://pics.example:8443/a", PUBLIC_ONLY, transport=transport)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("::ffff:93.184.216.34", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.9.9", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%lo", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("3fff::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
    ],
)
def test_is_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:image/png;base64,aGk=", b"hi"),
        ("data:;base64,aGk", b"hi"),
        ("DATA:image/png;BASE64,aG%6b%3D", b"hi"),
        ("data:image/png;base64,aG\n k=", b"hi"),
        ("data:,a%20b%FF+", b"a b\xff+"),
        ("data:image/svg+xml;charset=utf-8,<svg/>", b"<svg/>"),
        ("data:,", b""),
    ],
)
def test_data_url(url: str, expected: bytes) -> None:
    assert fetch(url, QUICK) == expected


@pytest.mark.parametrize(
    ("url", "code", "reason"),
    [
        ("data:image/png;base64", "fetch_failed", "no comma"),
        ("data:image/png;base64,a*b=", "fetch_failed", "not valid base64"),
        ("data:image/png;base64,aaaaa", "fetch_failed", "not valid base64"),
        ("data:,\udce9", "fetch_failed", "not valid"),
        ("data:;base64," + "A" * 20_000, "too_large", "more than 10,000 bytes"),
        ("data:," + "a" * 10_001, "too_large", "more than 10,000 bytes"),
    ],
)
def test_bad_data_url(url: str, code: SourceCode, reason: str) -> None:
    assert len(fails(url, code, reason)) < 100


def compress(encoding: str, data: bytes) -> bytes:
    if encoding == "raw deflate":
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(data) + packer.flush()
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": brotli.compress,
        "zstd": lambda content: bytes(imagecodecs.zstd_encode(content)),
    }
    return bytes(packers[encoding](data))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "br", "zstd"])
def test_what_is_compressed_unasked_is_read(site: Site, encoding: str) -> None:
    header = {"Content-Encoding": encoding.removeprefix("raw ")}
    packed = compress(encoding, png())
    assert fetch(site.serve("/a", (200, header, packed)), QUICK) == png()
    fails(site.serve("/b", (200, header, packed[:-3])), "fetch_failed", "its compression is cut off")
    fails(site.serve("/c", (200, header, b"\0nonsense" * 9)), "fetch_failed", "its compression is ")
    bomb = compress(encoding, bytes(50_000_000))
    began = time.monotonic()
    fails(site.serve("/d", (200, header, bomb[:9000])), "too_large", "more than 10,000 bytes")
    assert time.monotonic() - began < 2 * count_rivals()


def test_several_encodings_are_undone_in_order_and_unknown_ones_named(site: Site) -> None:
    packed = compress("br", compress("gzip", png()))
    assert fetch(site.serve("/a", (200, {"Content-Encoding": "gzip, br"}, packed)), QUICK) == png()
    assert fetch(site.serve("/b", (200, {"Content-Encoding": "identity"}, png())), QUICK) == png()
    url = site.serve("/c", (200, {"Content-Encoding": "compress"}, b"x"))
    fails(url, "fetch_failed", "its encoding 'compress' is not known")


@pytest.mark.parametrize(
    ("status", "headers", "is_read"),
    [
        (203, {}, True),
        (206, {"Content-Range": "bytes 0-{last}/{size}"}, True),
        (206, {"Content-Range": "bytes 0-9/{size}"}, False),
        (206, {"Content-Range": "bytes 5-{last}/{size}"}, False),
        (206, {"Content-Range": "bytes 0-{last}/*"}, False),
        (206, {}, False),
        (204, {}, False),
    ],
)
def test_whole_answers_of_other_numbers_are_read(
    site: Site, status: int, headers: dict[str, str], is_read: bool
) -> None:
    sizes = {"last": len(png()) - 1, "size": len(png())}
    told = {name: value.format(**sizes) for name, value in headers.items()}
    url = site.serve("/a", (status, told, b"" if status == 204 else png()))
    if is_read:
        assert fetch(url, QUICK) == png()
    else:
        fails(url, "fetch_failed", f"the server answered {status}")


def test_a_data_url_is_read_a_piece_at_a_time() -> None:
    random = Random(1)
    for size in (0, 1, 2, 3, 4, *range(PIECE_LETTERS * 3 // 4 - 4, PIECE_LETTERS * 3 // 4 + 5), 200_000):
        data = random.randbytes(size)
        plain = base64.b64encode(data).decode()
        escaped = "".join(f"%{ord(letter):02x}" for letter in plain)
        spaced = " \n".join(plain[start : start + 7] for start in range(0, len(plain), 7))
        for content in (plain, plain.rstrip("="), escaped, spaced):
            assert fetch(f"data:image/png;base64,{content}", Limits()) == data
        assert fetch(f"data:,{urllib.parse.quote(data)}", Limits()) == data
    full = "A" * PIECE_LETTERS
    for content in (
        "ab=c",
        "a",
        "ab==ab==",
        "a!bc",
        "é",
        "abcd=ef",
        "%zz",
        f"{full}a",
        f"{full[:-1]}={full}",
    ):
        with pytest.raises(SourceError, match="not valid base64"):
            fetch(f"data:;base64,{content}", Limits())
