"""What runs on a node of a cluster: one model, which answers batches as a worker on one machine does.

It does not import Ray, which only calls it. Its messages are those between a command and a server of ours.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...config import PACKAGE
from ...errors import IdeficsError, InternalError
from ...images import Limits, leave_unread
from ...values import Decoding, ImagePart, Message, ModelSpec, Request, TextPart
from ..daemon.protocol import dump_images, dump_line, dump_outcomes, read_value, unpack

if TYPE_CHECKING:
    from ..local import LocalBackend
    from ..pool.answerer import BatchAnswerer, BatchReply

LIBRARIES = ("torch", "transformers")
KNOWN_PICTURE = PACKAGE / "shapes" / "samples" / "red-circle.png"
KNOWN_TOKENS = 8
IN_PACKAGE = "package:"
"""What the name of a checkpoint that comes with the program begins with, as each machine has it elsewhere."""


class ClusterActor:
    """One worker. The first call loads its model, also after its process was started again."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._lock = threading.Lock()
        self._answerer: BatchAnswerer | None = None
        self._backend: LocalBackend | None = None

    def start(self) -> dict[str, Any]:
        """Load the model; return who this is and its answer to a known question, or why it failed."""
        try:
            self._open()
            return {"node": platform.node(), **self._describe()}
        except BaseException as error:
            return {"node": platform.node(), "error": _explain(error)}

    def answer(self, message: bytes) -> bytes:
        """The reply to a message with requests."""
        try:
            answerer = self._open()
            requests, images, others = unpack(message)
            reply = self._ask(answerer, requests, images, read_value(Limits, others["limits"]))
            return dump_line({"outcomes": dump_outcomes(reply.outcomes), "images": dump_images(reply.images)})
        except BaseException as error:
            return dump_line({"error": _explain(error)})

    def _open(self) -> BatchAnswerer:
        with self._lock:
            if self._answerer is None:
                os.environ.update(self._given["environment"])
                if self._given["folder"] is not None:
                    os.chdir(self._given["folder"])
                logging.getLogger("idefics_cli").setLevel(logging.ERROR)
                from ...models.libraries import import_libraries

                import_libraries()
                from ..local import LocalBackend
                from ..pool.answerer import BatchAnswerer

                spec = read_value(ModelSpec, read_spec(self._given["spec"]))
                backend = self._backend = LocalBackend(
                    spec, batch_size=self._given["batch_size"], cache_bytes=self._given["cache_bytes"]
                )
                backend.load()
                self._answerer = BatchAnswerer(backend)
            return self._answerer

    def _describe(self) -> dict[str, Any]:
        from ...models.devices import list_devices

        assert self._backend is not None
        backend = self._backend
        return {
            "versions": {"idefics": __version__, **{name: _find_version(name) for name in LIBRARIES}},
            "revision": backend.revision,
            "style": backend.style,
            "image_edge": backend.image_edge,
            "device": list_devices()[0].name,
            "answer": self._ask_known(),
        }

    def _ask_known(self) -> str:
        """Its answer about an image that is part of the program."""
        assert self._backend is not None
        parts = (ImagePart("known"), TextPart("What is in this image?"))
        message = Message("user" if self._backend.style == "chat" else "document", parts)
        request = Request("known", "vqa", (message,), Decoding(max_new_tokens=KNOWN_TOKENS), images=("known",))
        picture = leave_unread("known", KNOWN_PICTURE.read_bytes())
        assert self._answerer is not None
        (outcome,) = self._ask(self._answerer, [request], {"known": picture}, Limits()).outcomes
        return f"failed: {outcome}" if isinstance(outcome, IdeficsError) else outcome.text

    def _ask(
        self, answerer: BatchAnswerer, requests: list[Request], images: dict[str, Any], limits: Limits
    ) -> BatchReply:
        from ..pool.answerer import AskedBatch

        return answerer.submit(AskedBatch(requests, images, limits)).result()


def write_spec(values: dict[str, Any]) -> dict[str, Any]:
    """A spec in a form that another machine understands."""
    path = Path(values["checkpoint"])
    if path.is_relative_to(PACKAGE):
        return values | {"checkpoint": IN_PACKAGE + path.relative_to(PACKAGE).as_posix()}
    return values


def read_spec(values: dict[str, Any]) -> dict[str, Any]:
    name = str(values["checkpoint"])
    if name.startswith(IN_PACKAGE):
        return values | {"checkpoint": str(PACKAGE / name.removeprefix(IN_PACKAGE))}
    return values


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _explain(error: BaseException) -> str:
    return str(error if isinstance(error, IdeficsError) else InternalError(error))
