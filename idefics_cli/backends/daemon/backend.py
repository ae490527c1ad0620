"""The backend that asks a server of this user which has the model loaded; no model and no torch in this process.

It sends decoded images and finished prompts and gets answers, so a row is the same as with the model in this process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import ItemError, ModelError, ServerLost, UsageError
from ...values import Image, ModelSpec, Request, Style
from ..backend import WINDOW_BATCHES, Outcome, PreparedRequest, Preview, TakePrepared
from .ahead import Sending, TellEnd, send_ahead
from .protocol import dump_line, pack, read_outcomes, read_preview
from .runtime_dir import SOCKET, check_folder, find_folder, identify

GREETING_SECONDS = 5.0
"""How long a server may take to say who it is."""
REQUESTS_AHEAD = 32
"""Requests on their way to a server at a time, if nobody said how many: about what it answers at a time."""
SESSION, ANSWER, PREVIEW = "/private/session", "/private/answer", "/private/preview"
ABILITIES, USES = "/private/abilities", "/private/uses"
STOP, HEALTH = "/private/stop", "/health"
GO_ON = "run the same command again; with --output it goes on with what is there"
_LOST = (OSError, http.client.HTTPException, ValueError)
"""All that a server which ends, or is none, makes of a conversation."""


@dataclass(frozen=True, slots=True)
class Search:
    """The result of looking for a server: a backend, or why there is none. `is_alive` if a server runs all the same."""

    backend: ResidentBackend | None = None
    reason: str = ""
    is_alive: bool = False


class ResidentBackend:
    """Answers requests through a running server, which does not end as long as this is open."""

    def __init__(self, spec: ModelSpec, path: Path, hello: Mapping[str, Any], session: _Connection) -> None:
        self._spec = spec
        self._path = path
        self._hello = hello
        self._session = session
        self.batch_size: int | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def style(self) -> Style:
        style: Style = self._spec.style or self._hello["style"]
        return style

    @property
    def revision(self) -> str | None:
        revision: str | None = self._hello["revision"]
        return revision

    @property
    def pid(self) -> int:
        return int(self._hello["pid"])

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Answer each request, in order. Waits while the server has no room for more."""
        return read_outcomes(self.send(requests, images, on_text)["outcomes"])

    def send(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
        sending: Sending | None = None,
        on_end: TellEnd | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The server's reply to requests, with whatever else is sent with them. Has no outcomes if each is told to
        `on_end`.
        """
        flags = {"streams": on_text is not None, "tells_each": on_end is not None}
        pieces = pack(requests, images, **flags, **others)
        while True:
            reply = self._post(ANSWER, pieces, on_text, sending, on_end)
            if "outcomes" in reply:
                return reply
            time.sleep(reply["retry_after_seconds"])

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        """No preparation here: the server prepares what it is sent."""
        return PreparedRequest(request, dict(images), sum(images[source].held_bytes for source in request.images))

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        """Answer what is taken, each as it ends, whatever else the server has to do."""
        most = WINDOW_BATCHES * self.batch_size if self.batch_size else REQUESTS_AHEAD
        return send_ahead(self.send, take, most)

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        reply = self._post(PREVIEW, pack([request], images))
        if "outcomes" in reply:
            (error,) = read_outcomes(reply["outcomes"])
            assert isinstance(error, ItemError)
            raise error
        return read_preview(reply["preview"])

    def close(self) -> None:
        self._session.close()

    def _post(
        self,
        route: str,
        pieces: Sequence[bytes],
        on_text: Callable[[str], None] | None = None,
        sending: Sending | None = None,
        on_end: TellEnd | None = None,
    ) -> dict[str, Any]:
        """Send a message and pass on text and outcomes until the reply comes. Raises ModelError if that is an error."""
        connection = _Connection(self._path, None)
        try:
            connection.connect()
            if sending is not None:
                sending.begin(connection)
            length = {"Content-Length": str(sum(map(len, pieces)))}
            connection.request("POST", route, iter(pieces), length)
            response = connection.getresponse()
            while True:
                said = _read_line(response)
                if "text" in said and on_text is not None:
                    on_text(said["text"])
                elif "number" in said and on_end is not None:
                    on_end(said["number"], *read_outcomes(said["outcomes"]))
                else:
                    break
        except _LOST as error:
            raise ServerLost(
                f"the server with the model (process {self.pid}) ended while it was answering", hint=GO_ON
            ) from error
        finally:
            connection.close()
        if said.get("code") == "busy":
            return said
        if "code" in said or "error" in said:
            # An error of the model's own is its whole line already.
            message = said["message"] if "code" in said else said["error"]["message"]
            if said.get("code") == "ending":
                raise ServerLost(message, hint=GO_ON)
            raise ModelError(message)
        return said


def find_server(spec: ModelSpec, *, keep_alive_seconds: float | None = None, folder: Path | None = None) -> Search:
    """Look for a running server of this version with this model. It gets the time to stay from now on, if given.

    Raises ModelError for a style that its checkpoint was not trained for.
    """
    path = (folder or find_folder()) / SOCKET
    if not path.parent.is_dir():
        return Search()
    try:
        check_folder(path.parent)
    except UsageError as error:
        return Search(reason=str(error))
    session = _Connection(path, GREETING_SECONDS)
    constraints = {"style": spec.style, "keep_alive_seconds": _to_json(keep_alive_seconds)}
    hello: dict[str, Any] = {}
    try:
        session.request("POST", SESSION, dump_line({"identity": identify(spec), **constraints}))
        hello = _read_line(session.getresponse())
    except FileNotFoundError:
        return Search()
    except ConnectionRefusedError:
        return Search(reason="a server ended and left its socket behind")
    except TimeoutError:
        return Search(reason="the running server does not answer", is_alive=True)
    except _LOST:
        return Search(reason="the running server is of another version", is_alive=True)
    finally:
        if not hello.get("is_open"):
            session.close()
    if hello.get("version") != __version__:
        other = f"the running server is of another version ({hello.get('version', 'unknown')})"
        session.close()
        return Search(reason=other, is_alive=True)
    if hello.get("code") == "model":
        raise ModelError(hello["message"])
    if not hello.get("is_open"):
        return Search(reason=hello["message"], is_alive=True)
    session.settimeout(None)
    return Search(ResidentBackend(spec, path, hello, session))


def ask_server(method: str, route: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The running server's answer to a question without content, None if no server runs."""
    path = (folder or find_folder()) / SOCKET
    if not path.parent.is_dir():
        return None
    check_folder(path.parent)
    connection = _Connection(path, GREETING_SECONDS)
    try:
        connection.request(method, route)
        return _read_line(connection.getresponse())
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except _LOST as error:
        raise ModelError("the running server does not answer", hint="end its process yourself") from error
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_seconds: float | None) -> None:
        super().__init__("idefics", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def end(self) -> None:
        """End the connection for whoever reads from it."""
        if (sock := self.sock) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def settimeout(self, seconds: float | None) -> None:
        if self.sock is not None:
            self.sock.settimeout(seconds)


def _read_line(response: http.client.HTTPResponse) -> dict[str, Any]:
    """The next line of a reply. Raises ValueError if it is cut off."""
    line = response.readline()
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("not an object")
    return said


def _to_json(seconds: float | None) -> float | str | None:
    return "forever" if seconds is not None and math.isinf(seconds) else seconds
