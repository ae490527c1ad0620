"""Items in, results out: the one path that every command takes to a model.

Reads items a window at a time, loads each distinct image once, asks the backend, and yields one result per item in
input order, failures included. Knows no terminal and no template: `compose` puts an item into words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from .backends import Backend
from .errors import AnswerError, ItemError
from .images import Limits, load
from .tasks import match_label
from .values import Answer, Image, Item, Request, Result, list_sources

LOADERS = 8
"""Threads that decode and fetch; waiting on the network dominates, so more than the cores."""


@dataclass(frozen=True, slots=True)
class Report:
    """How answers become rows: the names they carry and what of the answer they show."""

    model: str
    task: str
    template: str
    full_text: bool = False
    top: int | None = None
    """How many scores a ranked row keeps; all without a number."""
    labels: tuple[str, ...] = ()
    """Labels that a generated answer must be one of; anything goes when empty."""
    doubt: Callable[[Image], str | None] | None = None
    """What to warn of when the model cannot know such an image; None for a model that knows anything."""


def run(
    items: Iterable[Item],
    compose: Callable[[Item], Request],
    backend: Backend,
    report: Report,
    *,
    limits: Limits,
    window: int = 16,
    on_text: Callable[[str], None] | None = None,
) -> Iterator[Result]:
    """Answer each item with one result, in order.

    An ItemError of `compose`, of an image or of the backend becomes that item's row; any other error ends the run.
    `on_text` is only for a single item; it hears the opening first.
    """
    remaining = iter(items)
    loaded: dict[str, Image | ItemError] = {}
    pool = ThreadPoolExecutor(max_workers=LOADERS)
    try:
        while ahead := list(islice(remaining, window)):
            requests = [_composed(item, compose) for item in ahead]
            sources = dict.fromkeys(source for request in requests for source in _sources(request))
            # What the last window had is kept if it is needed again: shots, and questions that straddle windows.
            loaded = {source: loaded[source] for source in sources if source in loaded}
            missing = [source for source in sources if source not in loaded]
            loaded.update(
                zip(missing, pool.map(lambda source: _loaded(source, limits), missing), strict=True)
            )
            outcomes = _answer(requests, loaded, backend, on_text)
            for item, request, outcome in zip(ahead, requests, outcomes, strict=True):
                yield _result(item, request, outcome, loaded, backend, report)
    finally:
        # An interrupted run does not wait for the images that are still on their way.
        pool.shutdown(wait=False, cancel_futures=True)


def join_opening(opening: str, text: str) -> str:
    """The opening and its continuation as one sentence: exactly one of the two spaces between them is kept."""
    return (opening.rstrip() if text[:1].isspace() else opening) + text


def _composed(item: Item, compose: Callable[[Item], Request]) -> Request | ItemError:
    try:
        return compose(item)
    except ItemError as error:
        return error


def _loaded(source: str, limits: Limits) -> Image | ItemError:
    try:
        return load(source, limits)
    except ItemError as error:
        return error


def _sources(request: Request | ItemError) -> tuple[str, ...]:
    return () if isinstance(request, ItemError) else list_sources(request.prompt)


def _answer(
    requests: Sequence[Request | ItemError],
    loaded: dict[str, Image | ItemError],
    backend: Backend,
    on_text: Callable[[str], None] | None,
) -> list[Answer | ItemError]:
    """One outcome per request; a request whose image failed is never run."""
    outcomes: list[Answer | ItemError | None] = [None] * len(requests)
    ready: list[tuple[int, Request]] = []
    for index, request in enumerate(requests):
        if isinstance(request, ItemError):
            outcomes[index] = request
            continue
        failures = [image for source in _sources(request) if isinstance(image := loaded[source], ItemError)]
        if failures:
            outcomes[index] = failures[0]
        else:
            ready.append((index, request))
    if ready:
        images = {source: image for source, image in loaded.items() if isinstance(image, Image)}
        if on_text is not None and ready[0][1].opening:
            on_text(ready[0][1].opening)
        answers = backend.answer([request for _, request in ready], images, on_text)
        for (index, _), answer in zip(ready, answers, strict=True):
            outcomes[index] = answer
    return [outcome for outcome in outcomes if outcome is not None]


def _result(
    item: Item,
    request: Request | ItemError,
    outcome: Answer | ItemError,
    loaded: dict[str, Image | ItemError],
    backend: Backend,
    report: Report,
) -> Result:
    warnings = _warnings(item, loaded, report)
    label = None
    if isinstance(outcome, Answer) and report.labels and not outcome.scores:
        label = match_label(outcome.text, report.labels)
        if label is None:
            said = " ".join(outcome.text.split())
            outcome = AnswerError(
                f"the model said {said[:80]!r}, which is none of the labels",
                code="no_label",
                hint="rank the labels instead, without --generate",
            )
    if isinstance(request, ItemError) or isinstance(outcome, ItemError):
        error = outcome if isinstance(outcome, ItemError) else request
        assert isinstance(error, ItemError)
        return Result(
            id=item.id,
            images=item.images,
            task=report.task,
            fields=dict(item.fields),
            text=None,
            finish_reason=None,
            label=None,
            scores=None,
            model=report.model,
            revision=backend.revision,
            template=report.template,
            warnings=warnings,
            error=error.to_failure(),
        )
    if outcome.scores:
        label = outcome.scores[0].label
        text = label
    elif report.full_text:
        text = outcome.full_text.strip()
    else:
        text = join_opening(request.opening, outcome.text).strip()
    return Result(
        id=item.id,
        images=item.images,
        task=report.task,
        fields=dict(request.fields),
        text=text,
        finish_reason=outcome.finish_reason,
        label=label,
        scores=outcome.scores[: report.top] if outcome.scores else None,
        model=report.model,
        revision=backend.revision,
        template=report.template,
        usage=outcome.usage,
        seconds=outcome.seconds,
        warnings=warnings,
    )


def _warnings(item: Item, loaded: dict[str, Image | ItemError], report: Report) -> tuple[str, ...]:
    """What decoding changed in the item's own images and what the model cannot know, with the source where several."""
    return tuple(
        warning if len(item.images) == 1 else f"{source}: {warning}"
        for source in dict.fromkeys(item.images)
        if isinstance(image := loaded.get(source), Image)
        for warning in (*image.warnings, report.doubt and report.doubt(image))
        if warning
    )
