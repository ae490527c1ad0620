"""Chat templates come with a checkpoint and are programs: they are rendered in a process that can be stopped.

transformers does everything else; only its compiled templates are replaced, by ones that ask the process.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from transformers import processing_utils
from transformers.utils import chat_template_utils

from ..errors import ModelError
from . import template_process
from .template_process import SECONDS

SPARED_SECONDS = 30.0
TAKES_TOO_MUCH = f"it takes more than {SECONDS} seconds, or too much memory"


class LimitedTemplate:
    """A chat template as `render_jinja_template` uses it."""

    def __init__(self, template: str) -> None:
        self._template = template

    def render(self, **values: Any) -> str:
        """The text. Raises TemplateError if the template refuses the messages, ModelError if it fails."""
        reply = _PROCESS.ask({"template": self._template, "values": values})
        if "refusal" in reply:
            raise jinja2.TemplateError(reply["refusal"])
        text: str = _expect(reply)["text"]
        return text


@cache
def list_names(template: str | None) -> frozenset[str]:
    """The names that a template uses. To find them, jinja2 evaluates constants, such as `10 ** (10 ** 10)`."""
    return frozenset() if template is None else frozenset(_expect(_PROCESS.ask({"template": template}))["names"])


def limit_templates() -> None:
    """From now on, let transformers compile and render no template in this process."""
    for module in (chat_template_utils, processing_utils):
        vars(module)["_get_template_variables"] = list_names
    vars(chat_template_utils)["_compile_jinja_template"] = LimitedTemplate


def _expect(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    if "failure" not in reply:
        return reply
    raise ModelError(
        f"the chat template of the checkpoint fails ({reply['failure']})",
        hint="download it again, or do not trust it",
    )


class _TemplateProcess:
    """The process, started when it is first needed and again after it was stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._endless: tuple[str, float] = ("", 0.0)
        """The template that it had to be ended for last, and until when nobody waits for that again."""
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(request) + "\n"
        with self._lock:
            template, until = self._endless
            if template == request["template"] and time.monotonic() < until:
                return {"failure": TAKES_TOO_MUCH}
            process = self._open()
            ending = threading.Timer(SECONDS, process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                ending.start()
                process.stdin.write(line)
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = ""
            finally:
                ending.cancel()
            if not answer.endswith("\n"):
                self.close()
                self._endless = request["template"], time.monotonic() + SPARED_SECONDS
                return {"failure": TAKES_TOO_MUCH}
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def close(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def _open(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(template_process.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
            ready = self._process.stdout.readline() if self._process.stdout is not None else ""
            if ready != "ready\n":
                self.close()
                raise ModelError("the process that renders chat templates does not start", hint="run `idefics doctor`")
        return self._process


_PROCESS = _TemplateProcess()
