"""Buckets, the hub and archives, through fsspec: s3, gs, az, hf, zip. Limits and retries are those of URLs.

Drivers are extras, imported when a source needs one. Only they see credentials, and their messages are shown without
what may be a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, Any, TypeVar

from ..errors import SourceError
from ..http_retry import Retry, Transient
from .deadline import Deadline
from .formats import has_image_suffix
from .limits import Limits
from .names import name_source, parse_scheme

Given = TypeVar("Given")
LIST_SECONDS = 600.0
"""For one page of names, or one folder of them."""
_URL = re.compile(r"\w+://\S+")
_LONG = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
"""As keys, tokens and signatures are."""
_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "DefaultCredentialsError")


@dataclass(frozen=True, slots=True)
class Driver:
    """The reader of a scheme, and the extra that installs it."""

    module: str
    extra: str = ""
    is_bucket: bool = False
    """Whether objects are put there whole, so that results can go there."""


_S3, _GS, _AZ = (Driver(*names, is_bucket=True) for names in (("s3fs", "s3"), ("gcsfs", "gs"), ("adlfs", "az")))
DRIVERS: dict[str, Driver] = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GS,
    "gcs": _GS,
    "az": _AZ,
    "abfs": _AZ,
    "abfss": _AZ,
    "hf": Driver("huggingface_hub"),
    "zip": Driver("fsspec"),
}


def read_remote(url: str, limits: Limits, deadline: Deadline | None = None) -> bytes:
    """The bytes behind a URL. Raises SourceError: not_found, fetch_failed, timeout, too_large, refused."""
    name = name_source(url)

    def read() -> bytes:
        system, path = open_system(url)
        try:
            data: bytes = system.cat_file(path, start=0, end=limits.max_bytes + 1)
        except OSError:
            if system.info(path).get("size") != 0:
                raise
            data = b""  # of nothing there is no part
        if len(data) > limits.max_bytes:
            raise SourceError(f"{name} has more than {limits.max_bytes:,} bytes", code="too_large")
        return data

    seconds = limits.total_timeout_seconds
    retry = Retry(limits.attempts, limits.backoff_seconds, limits.max_retry_after_seconds, seconds)
    return _call_in_time(read, name, seconds, retry, deadline)


def expand_remote(url: str, *, recursive: bool, skipped: Counter[str]) -> Iterator[str]:
    """The images of a URL: itself, the matches of its pattern, or those in its folder. A failure is its own row."""
    first = url.partition("::")[0]
    try:
        if any(mark in first for mark in "*?["):
            yield from find_remote(url) or [url]
        elif has_image_suffix(first):
            yield url
        else:
            yield from _list_folder(url, recursive, skipped)
    except SourceError:
        yield url


def find_remote(pattern: str) -> list[str]:
    """The files that match a pattern, in byte order of their names. Raises SourceError."""

    def find() -> list[str]:
        system, path = open_system(pattern)
        found = system.glob(path, detail=True)
        return sorted((key for key, one in found.items() if one["type"] == "file"), key=str.encode)

    return [_rebuild(pattern, path) for path in _call_in_time(find, name_source(pattern), LIST_SECONDS)]


def open_remote(url: str) -> IO[bytes]:
    """A file that is read in pieces. Raises SourceError."""

    def open_file() -> IO[bytes]:
        system, path = open_system(url)
        file: IO[bytes] = system.open(path, "rb")
        return file

    return _call_in_time(open_file, name_source(url), Limits().total_timeout_seconds)


def open_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it. Raises SourceError if its driver is not installed."""
    name = name_source(url)
    for one in url.split("::"):
        scheme = parse_scheme(one)
        if scheme is None or scheme == "file":
            continue
        driver = DRIVERS.get(scheme)
        if driver is None:
            raise SourceError(f"{name} leads to a {scheme}: URL, which is not supported there", code="refused")
        if find_spec(driver.module) is None:
            hint = f"pip install 'idefics-cli[{driver.extra}]'"
            raise SourceError(f"{name} needs {driver.module}", code="refused", hint=hint)
        logging.getLogger(driver.module).setLevel(logging.CRITICAL)  # its failures are raised as well
    import fsspec.core

    with translate_driver(name):
        system, path = fsspec.core.url_to_fs(url)
        return system, path


def call_driver(function: Callable[[], Given], name: str, seconds: float = LIST_SECONDS, what: str = "read") -> Given:
    """The result of a driver's call, within its time, with retries. Raises SourceError, which says `what` failed."""
    limits = Limits()
    retry = Retry(limits.attempts, limits.backoff_seconds, limits.max_retry_after_seconds, seconds)
    return _call_in_time(function, name, seconds, retry, what=what)


def _list_folder(url: str, recursive: bool, skipped: Counter[str]) -> Iterator[str]:
    """The images of a folder, then those of its subfolders, in the order of a local one."""
    waiting = [url]
    while waiting:
        current = waiting.pop()

        def list_names(current: str = current) -> list[tuple[str, bool]]:
            system, path = open_system(current)
            if system.info(path)["type"] == "file":
                return [(path, False)]
            entries = system.ls(path, detail=True)
            system.invalidate_cache()
            return sorted(
                (entry["name"].rstrip("/"), entry["type"] == "directory")
                for entry in entries
                if entry["name"].rstrip("/") != path.rstrip("/")
            )

        try:
            names = _call_in_time(list_names, name_source(current), LIST_SECONDS)
        except SourceError:
            yield current  # leaving it out would hide images
            continue
        if len(names) == 1 and _rebuild(url, names[0][0]) == current:
            yield current
            continue
        folders = []
        for path, is_folder in names:
            last = path.rpartition("/")[2]
            if last.startswith("."):
                continue
            if is_folder:
                folders.append(_rebuild(url, path))
            elif has_image_suffix(last):
                yield _rebuild(url, path)
            else:
                skipped[f".{last.rpartition('.')[2]}" if "." in last else last] += 1
        if recursive:
            waiting.extend(reversed(folders))
        else:
            skipped[""] += len(folders)


def _rebuild(url: str, path: str) -> str:
    """The URL of a path that a driver returned, in the archive or account of another URL."""
    first, joint, archive = url.partition("::")
    scheme, _, rest = first.partition("://")
    authority = rest.partition("/")[0]
    if "@" in authority and scheme.startswith("abfs"):  # container@account, of which paths have the container
        path = f"{authority}/{path.partition('/')[2]}"
    return f"{scheme}://{path}{joint}{archive}"


def _call_in_time(
    function: Callable[[], Given],
    name: str,
    seconds: float,
    retry: Retry | None = None,
    deadline: Deadline | None = None,
    what: str = "read",
) -> Given:
    """The result of a driver's call, or a timeout: a call that never ends blocks its own thread only."""

    async def call() -> Given:
        with translate_driver(name, what):
            return await _call_in_thread(function)

    async def call_all() -> Given:
        if deadline is not None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            deadline.call_when_given_up(lambda: task and loop.call_soon_threadsafe(task.cancel))
        try:
            async with asyncio.timeout(seconds):
                return await (call() if retry is None else retry.ask(call))
        except TimeoutError:
            raise SourceError(f"{name} took longer than {seconds:g} s", code="timeout") from None
        except Transient as transient:
            raise transient.error from transient

    try:
        return asyncio.run(call_all())
    except asyncio.CancelledError:
        raise SourceError(f"{name} was cancelled", code="timeout") from None
    finally:
        if deadline is not None:
            deadline.call_when_given_up(None)


async def _call_in_thread(function: Callable[[], Given]) -> Given:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Given] = loop.create_future()

    def finish(result: Given | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: Given | None = None
        failure: BaseException | None = None
        try:
            result = function()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # nobody waits for it any more
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=work, daemon=True).start()
    return await future


@contextlib.contextmanager
def translate_driver(name: str, what: str = "read") -> Iterator[None]:
    """A driver's exception as the failure of a source, and whether to try again."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{name} is not there", code="not_found") from None
    except PermissionError:
        hint = "check the credentials that its driver reads"
        raise SourceError(f"access to {name} is denied", code="refused", hint=hint) from None
    except IsADirectoryError:
        raise SourceError(f"{name} is a folder, not an image", code="not_an_image") from None
    except TimeoutError:
        raise Transient(SourceError(f"{name} does not answer in time", code="timeout")) from None
    except Exception as error:
        if type(error).__name__ in _NO_KEYS:
            hint = "set them where its driver reads them, such as AWS_PROFILE"
            raise SourceError(f"{name} needs credentials", code="refused", hint=hint) from None
        if type(error).__name__ == "OfflineModeIsEnabled":
            hint = "leave out --offline and HF_HUB_OFFLINE"
            raise SourceError(f"{name} cannot be {what} offline", code="fetch_failed", hint=hint) from None
        failure = SourceError(f"{name} cannot be {what}: {_describe(error)}", code="fetch_failed")
        if isinstance(error, ValueError | TypeError | LookupError | NotImplementedError | ImportError):
            raise failure from None
        raise Transient(failure) from None


def _describe(error: BaseException) -> str:
    """A driver's message, without what may be a secret."""
    text = _URL.sub(lambda match: name_source(match[0]), " ".join(str(error).split())[:300])
    return _LONG.sub("…", text) or type(error).__name__
