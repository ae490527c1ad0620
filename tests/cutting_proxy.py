"""A proxy on this machine that passes connections on to a server, but for some that it cuts off within their body."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CuttingProxy(socketserver.ThreadingTCPServer):
    """Cuts the next `cuts` requests whose first line has `word`, when the server has had `after` bytes of them."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, word: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.upstream, self.word = port, word
        self.cuts, self.after, self.cut = 0, 2000, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what it is for."""


class _Connection(socketserver.BaseRequestHandler):
    server: CuttingProxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            threading.Thread(target=self._pass_back, args=(upstream,), daemon=True).start()
            left = None
            while data := self.request.recv(1 << 14):
                line = data.partition(b"\r\n")[0]
                if left is None and self.server.cuts and line.startswith(b"PUT") and self.server.word in line:
                    self.server.cuts -= 1
                    left = self.server.after
                if left is not None:
                    upstream.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        self.server.cut += 1
                        self.request.shutdown(socket.SHUT_RDWR)
                        return
                else:
                    upstream.sendall(data)

    def _pass_back(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(1 << 14):
                self.request.sendall(data)
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)


@contextmanager
def run_proxy(port: int, word: bytes) -> Iterator[CuttingProxy]:
    with CuttingProxy(port, word) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
