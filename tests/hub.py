"""A hub on this machine: serves folders as repositories, with revisions, ranges, gates and broken connections.

huggingface_hub reads HF_ENDPOINT once, when it is imported, so what talks to this hub runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.program import Run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
if (limit := json.loads(sys.argv[2])) is not None:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from idefics_cli.cli.app import execute
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = execute(line)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass
class Repo:
    folder: Path
    is_gated: bool = False
    damaged: str = ""
    """The file that is served with a byte changed."""
    headers: dict[str, str] = field(default_factory=dict)
    """What its files are answered with instead of the truth."""
    status: int = 200
    sizes: dict[str, int] = field(default_factory=dict)
    """What its list says of files, instead of the truth."""
    described: Any = None
    """What is said of it instead of its list."""
    endless: str = ""
    """The part of an answer that never ends: "list", "list header", "config.json" or "slow config.json"."""


class Hub(ThreadingHTTPServer):
    """Repositories by id. Remembers what was asked; breaks off the answer with weights as often as told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.break_after: int | None = None
        """Bytes after which an answer with weights ends; until it is None, no further one is given."""
        self.has_broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are none of ours."""


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._describe(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._serve(*match.groups())
        else:
            self._refuse(404, "EntryNotFound")

    def _find(self, name: str, revision: str) -> Repo | None:
        repo = self.server.repos.get(name)
        if repo is None:
            self._refuse(404, "RepoNotFound")
            return None
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
            return None
        return repo

    def _describe(self, name: str, revision: str) -> None:
        if (repo := self._find(name, revision)) is None:
            return
        if repo.endless.startswith("list"):
            self._go_on(is_slow="header" in repo.endless, in_header="header" in repo.endless)
            return
        siblings = []
        for path in sorted(repo.folder.iterdir()):
            content = path.read_bytes()
            lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 1}
            size = repo.sizes.get(path.name, len(content))
            siblings.append({"rfilename": path.name, "size": size, "blobId": "0" * 40, "lfs": lfs})
        body = {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "siblings": siblings,
            "safetensors": {"parameters": {"BF16": 1234567}, "total": 1234567},
        }
        said = json.dumps(body if repo.described is None else repo.described)
        self._answer(200, {"Content-Type": "application/json"}, said.encode())

    def _go_on(self, *, is_slow: bool, in_header: bool = False) -> None:
        """Send until the client has had enough: as fast as can be, or a byte now and then."""
        self.send_response(200)
        self.send_header("ETag", '"endless"')
        if not in_header:
            self.end_headers()
        piece, pause = (b"x" * 1, 0.2) if is_slow else (b" " * 1_000_000, 0.0)
        self.close_connection = True
        self.flush_headers()
        if in_header:
            self.wfile.write(b"X-More: ")
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(piece)
                time.sleep(pause)

    def _serve(self, name: str, revision: str, file: str) -> None:
        if (repo := self._find(name, revision)) is None:
            return
        if repo.is_gated:
            self._refuse(403, "GatedRepo")
            return
        if repo.status != 200:
            self._answer(repo.status, repo.headers)
            return
        if file == "config.json" and repo.endless.endswith("config.json"):
            self._go_on(is_slow="slow" in repo.endless)
            return
        path = repo.folder / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        } | repo.headers
        if file == repo.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        is_broken = file.endswith(".safetensors") and self.server.break_after is not None
        if is_broken and self.command == "GET" and self.server.has_broken:
            self.close_connection = True
            return
        self._answer(206 if first else 200, headers, content[first:], is_broken=is_broken)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", *, is_broken: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_broken:
            self.wfile.write(body[: self.server.break_after])
            self.server.has_broken = self.close_connection = True
            return
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT})

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def open_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def run_lines(endpoint: str, *lines: Sequence[str | Path], limit: int | None = None, **environment: str) -> list[Run]:
    """Run command lines one after the other in a process that has this hub; `limit` bounds the files it writes."""
    settings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    settings |= {"HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", **environment}
    words = json.dumps([[str(word) for word in line] for line in lines])
    process = subprocess.run(
        [sys.executable, "-c", RUN_ALL, words, json.dumps(limit)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
    )
    assert process.returncode == 0, process.stderr
    assert not process.stderr, process.stderr
    return [Run(*json.loads(line)) for line in process.stdout.splitlines()]
