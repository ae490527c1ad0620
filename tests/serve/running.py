"""A real server in a process of its own, and ways to ask it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "idefics_cli" / "shapes" / "samples"
PROGRAM = (sys.executable, "-m", "idefics_cli")
STARTS_WITHIN_SECONDS = 300


@dataclass
class Running:
    """A server and where it is."""

    process: subprocess.Popen[str]
    folder: Path
    log: Path
    url: str

    def ask(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """The status and the content, JSON read, of a call over TCP."""
        given = {"Content-Type": "application/json"} | dict(headers or {})
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        call = urllib.request.Request(self.url.removesuffix("/v1") + path, data, given)
        try:
            with urllib.request.urlopen(call, timeout=120) as response:
                status, said = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, said = error.code, error.read()
        return status, json.loads(said) if said[:1] in b"{[" else said.decode()


@contextmanager
def running(
    *arguments: str,
    tcp: bool = True,
    environment: Mapping[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
) -> Iterator[Running]:
    """A server of the embedded checkpoint, ready, where another died; ended at the end if it did not by itself."""
    folder = Path(tempfile.mkdtemp(prefix="idefics-"))
    leave_dead_socket(folder)
    log = folder / "log"
    command = [*PROGRAM, "serve", "--model", "shapes", *(["--port", "0"] if tcp else []), *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "IDEFICS_RUNTIME_DIR": str(folder),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
            },
            stderr=output,
            text=True,
            preexec_fn=preexec,
        )
    try:
        said = wait_for(lambda: _read_ready(log, process))
        found = re.search(r"http://\S+", said)
        yield Running(process, folder, log, found[0] if found else "")
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)


def leave_dead_socket(folder: Path) -> None:
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "server.sock"))


def wait_for(look: Any, seconds: float = STARTS_WITHIN_SECONDS) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing came within {seconds} s")


def data_url(name: str) -> str:
    """A sample as a data URL."""
    return "data:image/png;base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def chat(*parts: str, **options: Any) -> dict[str, Any]:
    """The body of a chat: names of samples are images, everything else is text."""
    content = [
        {"type": "image_url", "image_url": {"url": data_url(part)}}
        if part.endswith(".png")
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"model": "shapes", "messages": [{"role": "user", "content": content}], **options}


def _read_ready(log: Path, process: subprocess.Popen[str]) -> str:
    said = log.read_text()
    assert process.poll() is None, said
    return said if "serving" in said else ""
