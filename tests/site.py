"""A real server on this machine that answers, or misbehaves, as a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site(ThreadingHTTPServer):
    """Answers each path with the function registered for it, and remembers what was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.pages: dict[str, Callable[[Page], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def serve(self, path: str, *answers: tuple[int, dict[str, str], bytes]) -> str:
        """Give these answers in turn, the last one again and again."""
        left = list(answers)

        def answer(page: Page) -> None:
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            page.answer(status, {"Content-Length": str(len(body)), **headers}, body)

        self.pages[path] = answer
        return self.url(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class Page(BaseHTTPRequestHandler):
    server: Site
    body = b""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.pages[self.path](self)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def open_site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:  # a thread that stays has a failed test hang
            server.closing.set()
            server.shutdown()
            thread.join()
