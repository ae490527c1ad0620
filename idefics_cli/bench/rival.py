"""vLLM as an arm: the same prompts and images, answered by a vLLM that is installed in another environment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import AnswerError, ModelError
from ..models.devices import choose_device, choose_dtype
from ..models.families.family import Family
from ..models.loading import open_family
from ..values import Image, ModelSpec, Request, Style, list_sources
from .arms import ArmAnswer, Spent
from .baseline import drop_bos, word_row

SCRIPT = Path(__file__).with_name("vllm_script.py")
CONTEXT_TOKENS = 16_384
"""What it reserves room for; a whole context of a real model would not fit into the memory of a small machine."""
MOST_IMAGES = 9
_ENDED = "it has ended"
_ERROR = re.compile(r"\b\w+Error: \S.*")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


def check_rival(python: str) -> None:
    """Raise ModelError unless this Python finds vLLM."""
    find = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", find], check=False, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"cannot run {python}", hint="--rival-python names a Python that has vLLM") from error
    if found.returncode:
        raise ModelError(f"{python} has no vLLM", hint="--rival-python names a Python that has")


class Rival:
    """A vLLM with one checkpoint in memory. `spent` is what its last answers took."""

    def __init__(self, spec: ModelSpec, python: str, *, is_eager: bool) -> None:
        self.family: Family = open_family(spec)
        self.style: Style = spec.style or self.family.default_style
        self.spent: Spent | None = None
        self._options = {
            "model": spec.checkpoint,
            "revision": spec.revision,
            "dtype": str(choose_dtype(spec.dtype, choose_device(spec.device), self.family)).removeprefix("torch."),
            "enforce_eager": is_eager,
            "max_model_len": min(CONTEXT_TOKENS, self.family.context_tokens),
            "limit_mm_per_prompt": {"image": MOST_IMAGES},
            "enable_prefix_caching": True,
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        self._process = subprocess.Popen(
            [python, "-I", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | ENVIRONMENT,
            text=True,
            start_new_session=True,
        )

    def answer(self, requests: Sequence[Request], images: Mapping[str, Image], batch_size: int) -> list[ArmAnswer]:
        """All requests at once: it makes its own batches."""
        with tempfile.TemporaryDirectory(prefix="idefics-rival-") as folder:
            files = {source: str(Path(folder, f"{number}.png")) for number, source in enumerate(images)}
            for source, file in files.items():
                images[source].pixels.save(file)
            reply = self._ask([self._write(request, images, files) for request in requests])
        self.spent = Spent(reply["seconds"], reply["cpu_seconds"], reply["peak_bytes"])
        return [_read_answer(request, answer) for request, answer in zip(requests, reply["answers"], strict=True)]

    def close(self) -> None:
        """End it, with the processes that it began."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _write(self, request: Request, images: Mapping[str, Image], files: Mapping[str, str]) -> dict[str, Any]:
        words = ["", *(choice.continuation for choice in request.choices)]
        rows = [word_row(self.family, self.style, request, one, images) for one in words]
        return {
            "texts": drop_bos(self.family, rows)[0],
            "images": [files[source] for source in list_sources(request.prompt)],
            "new_tokens": request.decoding.max_new_tokens,
        }

    def _ask(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"options": self._options, "requests": requests}) + "\n")
            self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline() or json.dumps({"failure": _ENDED}))
        if "failure" in reply:
            raise AnswerError(f"vLLM: {self._find_cause(reply['failure'])}", code="worker_lost")
        return reply

    def _find_cause(self, failure: str) -> str:
        """The failure, or the first error in its log where it only says that another of its processes failed."""
        if "root cause" not in failure and failure != _ENDED:
            return failure
        self._log.seek(0)
        found = _ERROR.search(self._log.read().decode("utf-8", "replace"))
        return found[0][:300] if found is not None else failure


def _read_answer(request: Request, answer: Mapping[str, Any]) -> ArmAnswer:
    labels = [choice.label for choice in request.choices]
    return ArmAnswer(
        text=answer.get("text", ""),
        logprobs=tuple(zip(labels, answer["logprobs"], strict=True)) if labels else (),
        asked_tokens=answer["asked_tokens"],
        computed_tokens=answer["asked_tokens"],
        new_tokens=answer["new_tokens"],
    )
