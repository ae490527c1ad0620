"""The server as a process: one at a time for each user, its sockets, and how it ends after the current work."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..backends.daemon.runtime_dir import SOCKET
from ..errors import UsageError
from .connections import ConnectionLimits, bound, bound_logs, count_connections
from .process_memory import keep_loaded
from .routes import build_api, build_private
from .state import ServerState

WATCH_SECONDS = 0.1
BACKLOG = 512
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the event loop waiting, which lets go with each of hundreds of sockets that it reads."""
INTERRUPTED = 130
_log = logging.getLogger("idefics.serve")


@dataclass(frozen=True, slots=True)
class Address:
    """Where TCP clients connect. Port 0 is any free one. Raises UsageError if it is open to all without a key."""

    host: str
    port: int
    api_key: str | None = None

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.api_key:
            raise UsageError(
                f"{self.host} can be reached by other machines, so it needs --api-key",
                hint="give a key, or leave --host out to be reached from this machine only",
            )

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    @property
    def names(self) -> tuple[str, ...]:
        """The host names that clients may use; None if other machines connect with a key."""
        return ("localhost", "127.0.0.1", "::1", self.host.lower()) if self.is_loopback else ()


def open_tcp(address: Address) -> socket.socket:
    """A bound socket. Raises UsageError, with the reason, if it cannot be bound."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {address.host} port {address.port}: {reason}", hint="choose another --port"
        ) from error
    return listener


def serve(
    open_state: Callable[[], ServerState],
    folder: Path,
    *,
    tcp: socket.socket | None,
    address: Address | None,
    on_ready: Callable[[], None],
    on_ending: Callable[[], None],
    hears_signals: bool = True,
) -> None:
    """Answer requests until the server is to end. The caller holds the lock of the folder.

    Without `hears_signals` it ends only with the process that started it.
    """

    async def run() -> None:
        state = open_state()
        keep_loaded()
        bound_logs()
        sys.setswitchinterval(SWITCH_SECONDS)
        asyncio.get_running_loop().set_exception_handler(_log_briefly)
        listeners: list[tuple[ASGIApp, socket.socket]] = [(build_private(state), _open_unix(folder))]
        if tcp is not None and address is not None:
            listeners.append((build_api(state, api_key=address.api_key, hosts=address.names), tcp))
        await _serve(state, folder, listeners, on_ready, on_ending, hears_signals=hears_signals)

    try:
        asyncio.run(run())
    finally:
        (folder / SOCKET).unlink(missing_ok=True)
    if any(thread.is_alive() and not thread.daemon for thread in threading.enumerate()[1:]):
        # What nobody waits for any more, such as the decoding for a call that was given up, holds up nothing.
        logging.shutdown()
        os._exit(0)


def _log_briefly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for errors that asyncio would log with a traceback, 512 times a second when files run out."""
    _log.error("%s (%s)", context.get("message"), context.get("exception"))


class _ListeningServer(uvicorn.Server):
    """Handles no signals itself: all listeners of a server end together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _open_unix(folder: Path) -> socket.socket:
    """A listening socket that only this user can reach; replaces one that was left behind."""
    early = folder / f"{SOCKET}.new"
    early.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(early))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    # In one step: whoever finds it can connect.
    early.rename(folder / SOCKET)
    return listener


async def _serve(
    state: ServerState,
    folder: Path,
    listeners: Sequence[tuple[ASGIApp, socket.socket]],
    on_ready: Callable[[], None],
    on_ending: Callable[[], None],
    *,
    hears_signals: bool,
) -> None:
    def hear() -> None:
        if state.ending.is_set():
            (folder / SOCKET).unlink(missing_ok=True)
            os._exit(INTERRUPTED)
        state.ending.set()
        if state.active_calls:
            on_ending()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if hears_signals:
            loop.add_signal_handler(number, hear)
        else:
            signal.signal(number, signal.SIG_IGN)
    limits = ConnectionLimits(count_connections())
    servers = [_ListeningServer(_configure(app, limits, listener)) for app, listener in listeners]
    tasks = [
        asyncio.create_task(server.serve([listener])) for server, (_, listener) in zip(servers, listeners, strict=True)
    ]
    for _, listener in listeners:
        listener.listen(BACKLOG)  # from here on a call is heard, if not yet taken up
    on_ready()
    while not state.ending.is_set():
        if state.is_expired:
            state.ending.set()
        state.rest()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(state.ending.wait(), WATCH_SECONDS)
    # Calls under way are still answered; new ones are told to try again.
    while state.active_calls or not state.scheduler.is_idle:
        await asyncio.sleep(WATCH_SECONDS)
    await asyncio.to_thread(state.scheduler.close)
    (folder / SOCKET).unlink(missing_ok=True)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


def _configure(app: ASGIApp, limits: ConnectionLimits, listener: socket.socket) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11" if listener.family == socket.AF_UNIX else bound(limits),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
