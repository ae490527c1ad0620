"""The backend that runs a model in this process: groups requests, keeps within memory, answers each in its place.

Opening it reads config and processor only; the weights are loaded when the first answer is wanted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..engine.generate import Generation, can_share_batch, generate
from ..engine.score import find_shared_length, rank, score_rows
from ..errors import AnswerError, ItemError, ModelError
from ..models.devices import is_out_of_memory
from ..models.families.family import Encoded
from ..models.loading import load_model, open_family
from ..values import Answer, Decoding, Image, ModelSpec, Request, Style, Usage, list_sources
from . import Preview

DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class _Task:
    """One request on its way to an answer; `choices` are its labels encoded after its prompt."""

    index: int
    request: Request
    encoded: Encoded
    choices: tuple[Encoded, ...]


class LocalBackend:
    """Answers requests with one checkpoint."""

    def __init__(self, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.batch_size = batch_size or DEFAULT_BATCH_SIZE
        self._spec = spec
        self._family = open_family(spec)
        self._style: Style = spec.style or self._family.default_style
        self._model: Any = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def style(self) -> Style:
        return self._style

    @property
    def revision(self) -> str | None:
        """The commit of a hub checkpoint, None for a folder."""
        commit: str | None = getattr(self._family.config, "_commit_hash", None)
        return commit

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        """The assembled prompt of a request and what it costs; needs no weights."""
        encoded = self._encode(request, images)
        return Preview(
            text=self._family.render(request.prompt),
            image_tokens=None if encoded.inputs else tuple(span.stop - span.start for span in encoded.spans),
            prompt_tokens=len(encoded.ids),
        )

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer | ItemError]:
        """Answer each request, in order; a request that cannot be answered gets its error in place."""
        streams = on_text is not None and len(requests) == 1 and not requests[0].choices
        assert on_text is None or streams, "only a single request without choices can be streamed"
        answers: dict[int, Answer | ItemError] = {}
        tasks: list[_Task] = []
        for index, request in enumerate(requests):
            try:
                tasks.append(self._prepare(index, request, images))
            except ItemError as error:
                answers[index] = error
        if tasks and self._model is None:
            self._model = load_model(self._spec, self._family)
        for task in tasks:
            if task.choices:
                answers[task.index] = self._rank(task)
        for batch in self._batch([task for task in tasks if not task.choices]):
            answers.update(self._generate(batch, on_text))
        return [answers[index] for index in range(len(requests))]

    def close(self) -> None:
        self._model = None
        gc.collect()
        _free_memory()

    def _encode(self, request: Request, images: Mapping[str, Image]) -> Encoded:
        sources = list_sources(request.prompt)
        assert sources or not request.images, "a request never runs without its image"
        return self._family.encode(request.prompt, [images[source] for source in sources])

    def _prepare(self, index: int, request: Request, images: Mapping[str, Image]) -> _Task:
        encoded = self._encode(request, images)
        if not request.choices:
            self._family.check_length(encoded, request.decoding.max_new_tokens)
        own_images = [images[source] for source in list_sources(request.prompt)]
        choices = tuple(
            self._family.encode_choice(request.prompt, own_images, choice) for choice in request.choices
        )
        return _Task(index, request, encoded, choices)

    def _batch(self, tasks: Sequence[_Task]) -> Iterator[list[_Task]]:
        """Requests with the same decoding together, the longest first: memory runs out early or not at all."""
        by_decoding: dict[Decoding, list[_Task]] = {}
        for task in tasks:
            by_decoding.setdefault(task.request.decoding, []).append(task)
        for decoding, group in by_decoding.items():
            limit = min(self.batch_size, self._family.batch_limit or self.batch_size)
            size = limit if can_share_batch(decoding) else 1
            group.sort(key=lambda task: len(task.encoded.ids), reverse=True)
            for first in range(0, len(group), size):
                yield group[first : first + size]

    def _generate(
        self, batch: Sequence[_Task], on_text: Callable[[str], None] | None
    ) -> dict[int, Answer | ItemError]:
        """Answers by index. Out of memory, the halves are tried in turn."""
        began = time.perf_counter()
        try:
            with _translated_device_errors():
                generations = generate(
                    self._model,
                    self._family,
                    [task.encoded for task in batch],
                    batch[0].request.decoding,
                    on_text,
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            generations = None
        if generations is None:
            _free_memory()
            if len(batch) == 1:
                return {batch[0].index: _out_of_memory()}
            middle = len(batch) // 2
            return self._generate(batch[:middle], on_text) | self._generate(batch[middle:], on_text)
        seconds = (time.perf_counter() - began) / len(batch)
        return {
            task.index: self._compose(task, generation, seconds)
            for task, generation in zip(batch, generations, strict=True)
        }

    def _compose(self, task: _Task, generation: Generation, seconds: float) -> Answer:
        return Answer(
            text=generation.text,
            full_text=self._family.read_prompt(task.request.prompt) + generation.text,
            finish_reason=generation.finish_reason,
            usage=Usage(prompt_tokens=len(task.encoded.ids), new_tokens=generation.new_tokens),
            seconds=seconds,
        )

    def _rank(self, task: _Task) -> Answer | ItemError:
        """Every choice after the same prompt. Out of memory, half as many at once are tried."""
        began = time.perf_counter()
        start = find_shared_length([task.encoded.ids, *(choice.ids for choice in task.choices)])
        size = self.batch_size
        logprobs = None
        while logprobs is None:
            try:
                with _translated_device_errors():
                    logprobs = score_rows(self._model, self._family, task.choices, start, batch_size=size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if logprobs is None:
                _free_memory()
                if size == 1:
                    return _out_of_memory()
                size //= 2
        scores = rank(task.request.choices, logprobs)
        return Answer(
            text=scores[0].label,
            full_text=f"{self._family.read_prompt(task.request.prompt)} {scores[0].label}",
            scores=scores,
            usage=Usage(prompt_tokens=len(task.encoded.ids)),
            seconds=time.perf_counter() - began,
        )


@contextmanager
def _translated_device_errors() -> Iterator[None]:
    """A device that fails for another reason than memory will fail for the next request too."""
    try:
        yield
    except torch.AcceleratorError as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(
            f"the device failed ({first_line})", hint="try another --device or --dtype"
        ) from error


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory() -> AnswerError:
    return AnswerError(
        "the memory of the device does not hold this request",
        code="out_of_memory",
        hint="use fewer or smaller images, a lower --detail, --4bit or a smaller --model",
    )
