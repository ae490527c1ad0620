"""The backend that runs a model in this process: encodes requests, keeps within memory, answers each in its place.

Opening it reads config and processor only; the weights are loaded when the first answer is wanted.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engine.constraint import MakeConstraint
from ..engine.engine import Engine, Work
from ..engine.flow import Flow
from ..engine.generate import Continuation
from ..engine.label_scoring import Ranking, split_labels
from ..engine.listener import Listener
from ..engine.oom_retry import free_memory
from ..errors import BadItem, PromptError, raise_as_model_error, to_item_error
from ..models.devices import translated_device_errors
from ..models.families.family import Encoded
from ..models.families.placeholder_family import PIXEL_CACHE_BYTES, PIXEL_PART, PlaceholderFamily
from ..models.hub.cache import find_commit
from ..models.image_scope import IMAGE_SCOPES
from ..models.loading import load_model, open_family
from ..models.quantization.kinds import Weights, count_weights
from ..values import AnswerWarning, Image, ModelSpec, Request, Style, drop_images, list_sources
from .answers import compose_answer
from .backend import DEFAULT_BATCH_SIZE, WINDOW_BATCHES, Outcome, PreparedRequest, Preview, TakePrepared
from .tasks import Answered, EncodedRequest, ModelRecord, PendingTasks

if TYPE_CHECKING:
    from ..engine.grammar import Grammars

log = logging.getLogger(__name__)


class LocalBackend:
    """Answers requests with one checkpoint."""

    def __init__(self, spec: ModelSpec, *, batch_size: int | None = None, cache_bytes: int | None = None) -> None:
        self.batch_size = batch_size
        self._cache_bytes = cache_bytes
        self._spec = spec
        self.family = self._family = open_family(spec)
        self._revision = find_commit(spec.checkpoint, spec.revision)
        self._style: Style = spec.style or self._family.default_style
        self._model: Any = None
        self._engine: Engine | None = None
        self._told_tokens: set[int] = set()
        self._record = ModelRecord(spec.checkpoint)
        self._grammars: Grammars | None = None
        if cache_bytes is not None:
            self.limit_cache(cache_bytes)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def style(self) -> Style:
        return self._style

    @property
    def image_edge(self) -> int | None:
        """The longer edge to which images are scaled, if known."""
        return self._family.image_edge

    @property
    def revision(self) -> str | None:
        """The commit of a hub checkpoint, None for a folder."""
        return self._revision

    def load(self) -> None:
        """Load the weights now rather than with the first request. Raises ModelError."""
        self._open_engine()

    def check_style(self, style: Style) -> None:
        """Raise ModelError for a style that the checkpoint was never made for."""
        self._family.check_style(style)

    def measure(self) -> Counter[str]:
        """The bytes that are kept, and how often they were used: see `Engine.measure`. All 0 before loading."""
        counts = Counter(self._engine.measure() if self._engine is not None else {})
        if isinstance(self._family, PlaceholderFamily):
            counts["cache_bytes"] += self._family.pixel_bytes
        return counts

    def limit_cache(self, cache_bytes: int) -> None:
        """Keep at most so many bytes of shared prefixes, image features and prepared images."""
        self._cache_bytes = cache_bytes
        if isinstance(self._family, PlaceholderFamily):
            pixel_bytes = min(PIXEL_CACHE_BYTES, cache_bytes // PIXEL_PART)
            self._family.limit_pixels(pixel_bytes)
            self._cache_bytes -= pixel_bytes
        if self._engine is not None:
            self._engine.limit_cache(self._cache_bytes)

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        """The assembled prompt of a request and, if all its images are there, what it costs; needs no weights."""
        text = self._family.render(request.prompt, thinks=request.thinks)
        if any(source not in images for source in list_sources(request.prompt)):
            return Preview(text)
        encoded = self._encode(request, images)
        self._family.check_length(encoded, 0 if request.choices else request.decoding.max_new_tokens)
        return Preview(
            text=text,
            image_tokens=None if encoded.inputs else tuple(span.stop - span.start for span in encoded.spans),
            prompt_tokens=len(encoded.ids),
        )

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Answer each request, in order; a request that cannot be answered gets its error in place.

        `on_text` is for a single one. Raises ModelError when the first ones all have logits that are not finite.
        """
        assert on_text is None or len(requests) == 1, "only a single request can be streamed"
        listener = None if on_text is None else Listener(on_text)
        answers: dict[int, Outcome] = {}
        prepared: dict[int, PreparedRequest] = {}
        for index, request in enumerate(requests):
            try:
                prepared[index] = self.prepare(request, images, listener)
            except BaseException as error:
                answers[index] = to_item_error(error)
        given = iter([list(prepared.values())] if prepared else [])
        ended = self.answer_prepared(lambda *_: next(given, None))
        done = {id(one): answer for one, answer in (pair for pair in ended if pair is not None)}
        answers |= {index: done[id(one)] for index, one in prepared.items()}
        return [answers[index] for index in range(len(requests))]

    def prepare(
        self, request: Request, images: Mapping[str, Image], listener: Listener | None = None
    ) -> PreparedRequest:
        """The request as ids and pixels. Safe from many threads. Raises ItemError."""
        task = self._prepare(request, images, listener)
        own = [place for place, source in enumerate(list_sources(request.prompt)) if source in request.images]
        return PreparedRequest(request, task, self._family.count_held_bytes(task.encoded, own))

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        """Answer what is taken, each as it ends; yields None from time to time while there is nothing."""
        rows = self.batch_size or DEFAULT_BATCH_SIZE
        tasks, most = PendingTasks(take, self._record), WINDOW_BATCHES * rows
        while (first := tasks.take(most, True)) == []:
            yield None
        if first is None:
            return
        begun = iter([first])

        def take_works(count: int, wait: bool) -> list[Work] | None:
            return next(begun, None) or tasks.take(count, wait)

        # Weights are loaded for the first ones, and not if there are none.
        with (
            translated_device_errors(),
            closing(Flow(self._open_engine(), take_works, rows, grows=not self.batch_size).run()) as ended,
        ):
            for pair in ended:
                if pair is None:
                    yield None
                else:
                    for answered in tasks.end(*pair, most_broken=most):
                        yield answered.prepared, self._read(answered)
            tasks.check()

    def _read(self, answered: Answered) -> Outcome:
        try:
            return compose_answer(self._family, answered)
        except BaseException as error:
            return to_item_error(error)

    def close(self) -> None:
        self._model = None
        self._engine = None
        gc.collect()
        free_memory()

    def count_weights(self) -> Weights:
        """The bytes of the weights; loads them if need be."""
        self._open_engine()
        return count_weights(self._model)

    def _open_engine(self) -> Engine:
        if self._engine is None:
            try:
                self._model = load_model(self._spec, self._family)
                self._engine = Engine(
                    self._model, self._family, cache_bytes=self._cache_bytes, compiles=self._spec.compiles
                )
            except BaseException as error:
                raise_as_model_error(error, f"{self._spec.checkpoint} cannot be loaded")
        return self._engine

    def _encode(self, request: Request, images: Mapping[str, Image]) -> Encoded:
        own = [images[source] for source in list_sources(request.prompt)]
        assert own or not request.images, "a request never runs without its image"
        encoded = self._family.encode(request.prompt, own, thinks=request.thinks)
        self._tell_image_tokens(encoded)
        return encoded

    def _tell_image_tokens(self, encoded: Encoded) -> None:
        """Log how many tokens an image costs, each number once."""
        for span in encoded.spans:
            tokens = span.stop - span.start
            if tokens not in self._told_tokens:
                self._told_tokens.add(tokens)
                log.debug("an image takes %d tokens", tokens)

    def _prepare(self, request: Request, images: Mapping[str, Image], listener: Listener | None) -> EncodedRequest:
        encoded, warnings = self._encode(request, images), self._warn(request, images)
        if not request.choices:
            self._family.check_length(encoded, request.decoding.max_new_tokens)
            work = Continuation(
                encoded,
                request.decoding,
                listener,
                request.cache_answer,
                self._constrain(request),
                request.likeliest_tokens,
            )
            return EncodedRequest(request, encoded, work, warnings=warnings)
        ranking = self._split(request, encoded, images)
        if request.normalize != "pmi":
            return EncodedRequest(request, encoded, ranking, warnings=warnings)
        if not list_sources(request.prompt):
            raise PromptError(
                "pmi compares a prompt with the same one without its images, and this one has none",
                code="no_image",
                hint="rank with --normalize none or tokens",
            )
        blind = replace(request, prompt=drop_images(request.prompt), images=())
        prior = self._split(blind, self._encode(blind, images), images)
        return EncodedRequest(request, encoded, ranking, prior, warnings)

    def _constrain(self, request: Request) -> MakeConstraint | None:
        """The constraint that keeps the answer to its format."""
        if request.answer_format is None:
            return None
        if request.decoding.num_beams > 1 and request.decoding.temperature > 0:
            raise BadItem("sampling with beams cannot follow a format", hint="leave out --temperature or --num-beams")
        if self._grammars is None:
            from ..engine.grammar import Grammars  # llguidance is for those who ask for a format

            self._grammars = Grammars(self._family)
        return self._grammars.constrain(request.answer_format)

    def _split(self, request: Request, encoded: Encoded, images: Mapping[str, Image]) -> Ranking:
        own = [images[source] for source in list_sources(request.prompt)]
        return split_labels(encoded, self._family.encode_choices(request.prompt, own, request.choices))

    def _warn(self, request: Request, images: Mapping[str, Image]) -> tuple[AnswerWarning, ...]:
        """A warning for each image that is outside what the checkpoint was trained for."""
        if self._spec.scope is None:
            return ()
        describe = IMAGE_SCOPES[self._spec.scope]
        asked = {images[source].digest: images[source] for source in request.images}
        told = ((describe(image), digest) for digest, image in asked.items())
        return tuple(AnswerWarning(text, digest) for text, digest in told if text)
