"""URLs to bytes: http, https and data. Bounded in bytes, seconds, redirects and tries.

Runs an event loop of its own for each URL, because only cancelling bounds the whole of a transfer: a timeout
on reads never ends a server that sends byte by byte. So it is not to be called from a running event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import re
import ssl
import string
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import httpx2

from .. import __version__
from ..errors import SourceError
from ..http_retry import Retry, Transient, is_transient, parse_retry_after, say_connection_error
from .addresses import resolve_public
from .deadline import Deadline
from .encodings import decompress
from .limits import Limits
from .names import name_source, parse_scheme

MAX_REDIRECTS = 5
PIECE_LETTERS = 1 << 16
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = {
    "User-Agent": f"idefics/{__version__}",
    "Accept": "image/*, */*;q=0.1",
    # Images are compressed already; asking for more would only make room for bombs.
    "Accept-Encoding": "identity",
}


def fetch(
    url: str,
    limits: Limits,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    deadline: Deadline | None = None,
) -> bytes:
    """The bytes behind a URL. `transport` replaces the network; a `deadline` that is given up ends the transfer.

    Raises SourceError: fetch_failed, timeout, too_large, refused.
    """
    if parse_scheme(url) == "data":
        return _parse_data_url(url, limits)
    try:
        return asyncio.run(_fetch_in_time(url, limits, transport, deadline or Deadline()))
    except asyncio.CancelledError:
        raise SourceError(f"{name_source(url)} was cancelled", code="timeout") from None
    finally:
        if deadline is not None:
            deadline.call_when_given_up(None)


async def _fetch_in_time(
    url: str, limits: Limits, transport: httpx2.AsyncBaseTransport | None, deadline: Deadline
) -> bytes:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    deadline.call_when_given_up(cancel)
    seconds = limits.total_timeout_seconds
    retry = Retry(limits.attempts, limits.backoff_seconds, limits.max_retry_after_seconds, seconds)
    try:
        async with asyncio.timeout(seconds), _open_client(url, limits, transport) as client:
            return await retry.ask(lambda: _follow(client, url, limits))
    except TimeoutError:
        raise SourceError(f"{name_source(url)} took longer than {seconds:g} s", code="timeout") from None


def _open_client(url: str, limits: Limits, transport: httpx2.AsyncBaseTransport | None) -> httpx2.AsyncClient:
    # A proxy would resolve and connect in our place.
    uses_proxies = limits.allow_private_addresses
    if uses_proxies and _needs_no_proxy(url):
        uses_proxies = False
    try:
        return httpx2.AsyncClient(
            headers=_HEADERS,
            timeout=httpx2.Timeout(None, connect=limits.connect_timeout_seconds),
            # A connection kept alive belongs to an address, not to a name, once addresses are pinned.
            limits=httpx2.Limits(max_keepalive_connections=0),
            verify=_ssl_context(),
            trust_env=uses_proxies,
            transport=transport,
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        message = "the proxy named in the environment cannot be used"
        hint = "set HTTPS_PROXY and ALL_PROXY to http:// URLs, or unset them"
        raise SourceError(message, code="fetch_failed", hint=hint) from error


async def _follow(client: httpx2.AsyncClient, url: str, limits: Limits) -> bytes:
    name = name_source(url)
    hop = _parse_url(url, None, name)
    for _ in range(MAX_REDIRECTS + 1):
        _check_scheme(hop, name)
        async with _open_response(client, hop, name, limits) as response:
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                _check_status(response, name)
                return await _read_body(response, name, limits)
            hop = _parse_url(response.headers["location"], hop, name)
            if limits.allow_private_addresses and not client.trust_env and not _needs_no_proxy(str(hop)):
                raise SourceError(f"{name} redirects to an address that needs a proxy", code="refused")
    raise SourceError(f"{name} redirects more than {MAX_REDIRECTS} times", code="fetch_failed")


def _needs_no_proxy(url: str) -> bool:
    """Whether NO_PROXY names this host, so that no proxy is used."""
    try:
        host = httpx2.URL(url).host
    except (httpx2.InvalidURL, ValueError):
        return False
    return bool(urllib.request.getproxies_environment().get("no") and urllib.request.proxy_bypass(host))


def _check_scheme(hop: httpx2.URL, name: str) -> None:
    if hop.scheme not in {"http", "https"}:
        message = f"{name} leads to a {hop.scheme}: URL; only http and https are followed"
        raise SourceError(message, code="refused")
    if not hop.host:
        raise SourceError(f"{name} cannot be fetched: it names no host", code="fetch_failed")


def _parse_url(url: str, previous: httpx2.URL | None, name: str) -> httpx2.URL:
    try:
        return previous.join(url) if previous else httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        reason = "redirects to an invalid URL" if previous else "is not a valid URL"
        raise SourceError(f"{name} {reason}", code="fetch_failed") from error


@asynccontextmanager
async def _open_response(
    client: httpx2.AsyncClient, hop: httpx2.URL, name: str, limits: Limits
) -> AsyncIterator[httpx2.Response]:
    # Credentials travel as a header, never in the URL, which httpx2 writes to its log.
    auth = httpx2.BasicAuth(hop.username, hop.password) if hop.userinfo else None
    target = hop.copy_with(userinfo=b"", fragment=None)
    try:
        if limits.allow_private_addresses:
            request = client.build_request("GET", target)
        else:
            # Connect to the very address that was checked; Host and the TLS handshake keep the name.
            pinned = await resolve_public(target, name)
            request = client.build_request(
                "GET",
                target.copy_with(host=pinned),
                headers={"Host": target.netloc.decode("ascii")},
                extensions={"sni_hostname": target.raw_host.decode("ascii")},
            )
        response = await client.send(request, stream=True, auth=auth)
        try:
            yield response
        finally:
            await response.aclose()
    except httpx2.TimeoutException:
        raise Transient(SourceError(f"{name} does not answer in time", code="timeout")) from None
    except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
        reason = say_connection_error(error)
        raise Transient(SourceError(f"{name} cannot be fetched: {reason}", code="fetch_failed")) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise SourceError(f"{name} cannot be fetched: {reason}", code="fetch_failed") from error


def _check_status(response: httpx2.Response, name: str) -> None:
    status = response.status_code
    # 203 is 200 through a proxy that says so. Parts were not asked for, but a part may be all there is.
    if status in {200, 203} or (status == 206 and _is_whole(response.headers.get("content-range", ""))):
        return
    message = f"{name} cannot be fetched: the server answered {status} {response.reason_phrase}".rstrip()
    error = SourceError(message, code="fetch_failed")
    if is_transient(status):
        raise Transient(error, parse_retry_after(response.headers.get("retry-after")))
    raise error


def _is_whole(content_range: str) -> bool:
    match = re.fullmatch(r"bytes 0-(\d{1,19})/(\d{1,19})", content_range.strip().lower(), re.ASCII)
    return match is not None and int(match[1]) + 1 == int(match[2])


async def _read_body(response: httpx2.Response, name: str, limits: Limits) -> bytes:
    error = SourceError(f"{name} has more than {limits.max_bytes:,} bytes", code="too_large")
    declared = response.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and len(declared) < 20 and int(declared) > limits.max_bytes:
        raise error
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limits.max_bytes:
            raise error
    try:
        data = decompress(bytes(body), response.headers.get("content-encoding", ""), limits.max_bytes)
    except ValueError as reason:
        raise SourceError(f"{name} cannot be fetched: {reason}", code="fetch_failed") from reason
    if len(data) > limits.max_bytes:
        raise error
    return data


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Reading the machine's certificates takes longer than many a download.
    return httpx2.create_ssl_context()


def _parse_data_url(url: str, limits: Limits) -> bytes:
    comma = url.find(",", 5)
    if comma < 0:
        raise SourceError("the data URL has no comma before its data", code="fetch_failed")
    is_base64 = url[5:comma].lower().rstrip().endswith(";base64")
    # Neither encoding makes data shorter than this, so the cap holds before anything is decoded.
    if (len(url) - comma - 1) * 3 // 4 > limits.max_bytes * (1 if is_base64 else 3):
        raise SourceError(f"the data URL has more than {limits.max_bytes:,} bytes", code="too_large")
    pieces = _unquote(url, comma + 1)
    try:
        data = b"".join(_decode_base64(pieces) if is_base64 else pieces)
    except (binascii.Error, UnicodeError):
        raise SourceError("the data URL is not valid base64", code="fetch_failed") from None
    if len(data) > limits.max_bytes:
        raise SourceError(f"the data URL has more than {limits.max_bytes:,} bytes", code="too_large")
    return data


def _unquote(url: str, start: int) -> Iterator[bytes]:
    """Decode percent-encoding in pieces: each makes many objects, and other threads have to wait for it."""
    while start < len(url):
        end = min(start + PIECE_LETTERS, len(url))
        if (cut := url.find("%", max(start + 1, end - 2), end)) >= 0:
            end = cut  # in the middle of an escape
        yield urllib.parse.unquote_to_bytes(url[start:end])
        start = end


def _decode_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, has_ended = b"", False
    for piece in pieces:
        packed = piece.translate(None, string.whitespace.encode())
        bare = packed.rstrip(b"=")
        if bare and (has_ended or b"=" in bare):
            raise binascii.Error("there is more after its end")
        has_ended = has_ended or len(bare) < len(packed)
        bare = rest + bare
        whole = len(bare) // 4 * 4
        yield base64.b64decode(bare[:whole], validate=True)
        rest = bare[whole:]
    yield base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)
