"""Items in, results out: the only way of every command to a model.

Takes items when they are ready, asks the backend a window at a time, and yields one result per item, failures included.
Knows no terminal and no template: `compose` words an item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..backends import Backend, Outcome, PoolingBackend, PreparedRequest, StreamingBackend
from ..errors import AnswerError, ItemError, is_of_item, to_item_error
from ..images import Limits
from ..prompts.answer_format import cut_off, read_data
from ..prompts.tasks import MANY_LABELS, match_label
from ..ranking import temper
from ..rows import Result
from ..values import Answer, AnswerWarning, Failure, Image, Item, Request
from .prefetch import MAX_HELD_BYTES, Prefetcher
from .prepared_item import Load, PreparedItem, compose_item

Answered = tuple[PreparedItem, Outcome]
WINDOWS_AHEAD = 4
LEAST_AHEAD = 64
"""Enough downloads at once to hide what a single one takes."""


@dataclass(frozen=True, slots=True)
class Report:
    """How answers become rows: the name of the model and what of an answer they show."""

    model: str
    full_text: bool = False
    temperature: float | None = None
    """Of the probabilities of labels; as they came without one."""
    least_confidence: float | None = None
    """Answers of which the model is less sure carry a warning."""
    top: int | None = None
    """How many scores a ranked row keeps; all without a number."""


def _never() -> bool:
    return False


def run(
    items: Iterable[Item],
    compose: Callable[[Item], Request],
    backend: Backend,
    report: Report,
    *,
    limits: Limits,
    window: int = 16,
    is_ordered: bool = True,
    max_held_bytes: int = MAX_HELD_BYTES,
    should_stop: Callable[[], bool] = _never,
    on_text: Callable[[str], None] | None = None,
) -> Generator[Result]:
    """Answer each item with one result, in order, or as they finish.

    Whatever an item raises while it is composed, decoded or answered becomes its row, and affects no other. A run ends
    only if the model fails, or for what is no failure of an item: an interrupt, a closed pipe, a list that cannot be
    read. When `should_stop` returns True, the current window is the last. `items` are iterated in another thread.
    `on_text` is only for a single item; it gets the opening first.
    """
    streams = isinstance(backend, StreamingBackend) and on_text is None
    ahead: dict[str, Any] = {"prepare": cast(StreamingBackend, backend).prepare} if streams else {}
    pool = backend if streams and isinstance(backend, PoolingBackend) else None
    if pool is not None:
        ahead["reads"] = pool.reads

    def count_ahead() -> int:
        """How many items to list before their answers: some windows, or what a backend has and half as much again."""
        return max(LEAST_AHEAD, WINDOWS_AHEAD * window, 0 if pool is None else pool.capacity * 3 // 2)

    prefetcher = Prefetcher(items, compose, limits, size=count_ahead, max_held_bytes=max_held_bytes, **ahead)
    finished: dict[int, Result] = {}
    due = 0
    with prefetcher:
        if streams:
            answers = _answer_each(prefetcher, cast(StreamingBackend, backend), should_stop)
        else:
            answers = _answer_windows(prefetcher, backend, window, should_stop, on_text)
        for answered in answers:
            for entry, outcome in answered:
                finished[entry.number] = _result(entry, outcome, backend, report)
            prefetcher.release([entry for entry, _ in answered])
            for number in sorted(finished):
                if is_ordered and number != due:
                    break
                due = number + 1
                yield finished.pop(number)
        # Stopped while an earlier item was stuck: what is finished is not thrown away.
        yield from (finished[number] for number in sorted(finished))


def run_one(
    item: Item,
    compose: Callable[[Item], Request],
    images: Mapping[str, Image],
    backend: Backend,
    report: Report,
    *,
    on_text: Callable[[str], None] | None = None,
) -> Result:
    """Answer an item whose images are loaded."""
    loads = {source: Load(source, outcome=image) for source, image in images.items()}
    entry = PreparedItem(0, item, compose_item(item, compose), loads)
    (outcome,) = _answer([entry], backend, on_text)
    return _result(entry, outcome, backend, report)


def join_opening(opening: str, text: str) -> str:
    """The opening and its continuation as one sentence: exactly one of the two spaces between them is kept."""
    return (opening.rstrip() if text[:1].isspace() else opening) + text


def _answer_windows(
    prefetcher: Prefetcher,
    backend: Backend,
    window: int,
    should_stop: Callable[[], bool],
    on_text: Callable[[str], None] | None,
) -> Iterator[list[Answered]]:
    """A window at a time, for a backend that does not prepare requests."""
    while entries := prefetcher.next_batch(window, should_stop):
        yield list(zip(entries, _answer(entries, backend, on_text), strict=True))


def _answer_each(
    prefetcher: Prefetcher, backend: StreamingBackend, should_stop: Callable[[], bool]
) -> Iterator[list[Answered]]:
    """Each result as it ends; an item that cannot be asked, when it is found."""
    failed: list[Answered] = []
    asked: dict[int, PreparedItem] = {}

    def take(count: int, wait: bool) -> list[PreparedRequest] | None:
        entries = prefetcher.next_batch(count, should_stop, wait=wait)
        if wait and not entries:
            return None
        taken = []
        for entry in entries:
            prepared = entry.failure or entry.prepared
            if isinstance(prepared, ItemError):
                failed.append((entry, prepared))
            else:
                assert isinstance(prepared, PreparedRequest)
                asked[id(prepared)] = entry
                taken.append(prepared)
        return taken

    for pair in backend.answer_prepared(take):
        if failed:
            yield failed.copy()
            failed.clear()
        if pair is not None:
            entry = asked.pop(id(pair[0]))
            entry.loads |= {source: Load(source, outcome=one) for source, one in pair[0].images.items()}
            yield [(entry, pair[1])]
    if failed:
        yield failed


def _answer(entries: Sequence[PreparedItem], backend: Backend, on_text: Callable[[str], None] | None) -> list[Outcome]:
    """One outcome per entry; a request whose image failed is never run."""
    outcomes: dict[int, Outcome] = {}
    ready: list[Request] = []
    images: dict[str, Image] = {}
    for entry in entries:
        failure = entry.failure
        if failure is not None:
            outcomes[entry.number] = failure
        else:
            assert not isinstance(entry.request, ItemError)
            ready.append(entry.request)
            images |= entry.images
    if ready:
        if on_text is not None and ready[0].opening:
            on_text(ready[0].opening)
        answers = iter(_ask(ready, images, backend, on_text))
        outcomes |= {entry.number: next(answers) for entry in entries if entry.number not in outcomes}
    return [outcomes[entry.number] for entry in entries]


def _ask(
    requests: Sequence[Request],
    images: Mapping[str, Image],
    backend: Backend,
    on_text: Callable[[str], None] | None,
) -> list[Outcome]:
    """The backend's answers. If they fail as a whole, each request is asked again alone."""
    try:
        return backend.answer(requests, images, on_text)
    except BaseException as error:
        if len(requests) == 1:
            return [to_item_error(error)]
        if not is_of_item(error):
            raise
    return [_ask([request], images, backend, None)[0] for request in requests]


def _result(entry: PreparedItem, outcome: Outcome, backend: Backend, report: Report) -> Result:
    warnings: tuple[str, ...] = ()
    try:
        warnings = _list_warnings(entry.item, entry.images)
        return _read(entry, outcome, backend, report, warnings)
    except BaseException as error:
        return _read(entry, to_item_error(error), backend, report, warnings)


def _read(
    entry: PreparedItem,
    outcome: Outcome,
    backend: Backend,
    report: Report,
    warnings: tuple[str, ...],
) -> Result:
    item, request = entry.item, entry.request
    if isinstance(outcome, Answer):
        warnings += tuple(_name_warning(one, item, entry.images) for one in outcome.warnings)
    label = None
    if isinstance(outcome, Answer) and item.labels and not item.is_ranked:
        label = match_label(outcome.text, item.labels)
        if label is None:
            said = " ".join(outcome.text.split())
            outcome = AnswerError(
                f"the model answered {said[:80]!r}, which is not one of the labels",
                code="no_label",
                hint="leave out --generate, so that labels are ranked",
            )
    data: Any = None
    if isinstance(outcome, Answer) and isinstance(request, Request) and request.answer_format is not None:
        try:
            if outcome.finish_reason == "length":
                raise cut_off()
            data = read_data(request.answer_format, outcome.text)
        except ItemError as problem:
            outcome = problem
    row = Result(
        id=item.id,
        images=item.images,
        task=item.task,
        fields=dict(item.fields),
        text=None,
        finish_reason=None,
        label=None,
        scores=None,
        model=report.model,
        revision=backend.revision,
        template=item.template,
        warnings=warnings,
        decoding=item.decoding,
        key=item.key,
        instead_of=item.instead_of,
        shard=item.shard,
        meta=item.meta,
        contents=entry.contents,
    )
    if isinstance(request, ItemError) or isinstance(outcome, ItemError):
        error = outcome if isinstance(outcome, ItemError) else request
        assert isinstance(error, ItemError)
        return replace(row, error=_explain(error, item))
    if outcome.scores:
        label = outcome.scores[0].label
        if report.temperature is not None:
            outcome = replace(outcome, scores=temper(outcome.scores, report.temperature))
        if item.values:
            counts = dict(zip(item.labels, item.values, strict=True))
            data = round(math.fsum(counts[score.label] * score.probability for score in outcome.scores), 4)
    if report.full_text:
        text = outcome.full_text.strip()
    elif outcome.scores:
        text = outcome.scores[0].label
    else:
        text = join_opening(request.opening, outcome.text).strip()
    return replace(
        row,
        fields=_list_fields(item, request),
        text=text,
        finish_reason=outcome.finish_reason,
        label=label,
        scores=outcome.scores[: report.top] if outcome.scores else None,
        usage=outcome.usage,
        seconds=outcome.seconds,
        warnings=warnings + _warn_if_unsure(outcome, report.least_confidence),
        data=data,
        confidence=outcome.confidence,
    )


def _warn_if_unsure(answer: Answer, least: float | None) -> tuple[str, ...]:
    """A warning if an answer's label, or its tokens on average, are less likely than --min-confidence."""
    likely = answer.likelihood
    if least is None or likely is None or likely >= least:
        return ()
    return (f"unsure: {likely:.2f} is less than {least:g}",)


def _name_warning(warning: AnswerWarning, item: Item, images: Mapping[str, Image]) -> str:
    """A warning of the backend, with the name of its image if there are several."""
    about = [source for source in dict.fromkeys(item.images) if images[source].digest == warning.digest]
    return f"{about[0]}: {warning.text}" if about and len(item.images) > 1 else warning.text


def _explain(error: ItemError, item: Item) -> Failure:
    """Why an item failed; for a prompt that is too long, also what could be shortened."""
    failure = error.to_failure()
    if failure.code != "prompt_too_long" or item.task == "chat":
        return failure
    ways = ["--template classify-photo, which names no labels"] if len(item.labels) > MANY_LABELS else []
    ways += ["fewer --shots"] if item.examples else []
    ways += ["fewer images", "a lower --detail"] if len(item.images) > 1 else []
    ways += ["a shorter text or a smaller --max-new-tokens"] if not ways else []
    return replace(failure, message=f"{failure.message}; use {' or '.join(ways)}")


def _list_fields(item: Item, request: Request) -> dict[str, Any]:
    """The fields as they were asked with, labels as a list."""
    fields: dict[str, Any] = dict(request.fields)
    return fields | ({"labels": list(item.labels)} if "labels" in fields and item.labels else {})


def _list_warnings(item: Item, images: Mapping[str, Image]) -> tuple[str, ...]:
    """What decoding changed in the item's own images, with the source if there are several."""
    return tuple(
        warning if len(item.images) == 1 else f"{source}: {warning}"
        for source in dict.fromkeys(item.images)
        if (image := images.get(source)) is not None
        for warning in image.warnings
    )
