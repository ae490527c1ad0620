"""`--dry-run`: the assembled prompts, without weights and, for named checkpoints, without downloads.

If the tokenizer is here, standard error also has the tokens of each prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import typer

from ..backends import Preview, open_backend
from ..config import Model
from ..errors import ItemError, to_item_error
from ..images import Limits, decode, load
from ..jsonl import dump_row
from ..models.hub.cache import has_processor
from ..values import Image, Item, ModelSpec, Request, Style, list_sources
from .daemon import open_warm
from .inputs import ItemList
from .output import display_name, emit, tell_failure
from .preflight import avoid_naming, may_not_fit
from .settings import Settings

Render = Callable[[Request, Mapping[str, Image]], Preview]


def print_prompts(
    work: ItemList, items: Iterable[Item], first: Item, spec: ModelSpec, model: Model, settings: Settings
) -> None:
    """Print the prompt of every item. Raises typer.Exit(1) if one of them could not be run."""
    with contextlib.ExitStack() as held:
        style, preview = _choose_preview(spec, model, settings, held)
        if may_not_fit(work, settings):
            work, items = avoid_naming(work, items, first, style, preview, settings)
        has_failed = _print_each(items, work.words, style, preview, settings)
    if has_failed:
        raise typer.Exit(1)


def _print_each(
    items: Iterable[Item],
    words: Callable[[Item, Style], Request],
    style: Style,
    preview: Render,
    settings: Settings,
) -> bool:
    """Print the prompt of every item, and return whether one of them could not be run."""
    has_failed = False
    loaded: dict[str, Image] = {}
    for number, item in enumerate(items):
        name = display_name(item.images) or item.id
        try:
            request = words(item, style)
            loaded, failures = _load(request, loaded, settings.limits, item)
            shown = preview(request, {} if failures else loaded)
        except BaseException as error:
            failures, shown = [to_item_error(error)], None
        if shown is not None:
            _print(request, shown, name, settings, is_first=number == 0)
        for failure in failures:
            tell_failure(name, str(failure))
            has_failed = True
    return has_failed


def _choose_preview(
    spec: ModelSpec, model: Model, settings: Settings, held: contextlib.ExitStack
) -> tuple[Style, Render]:
    """How prompts are rendered: with the processor if it is here, else from the architecture in models.yaml."""
    from ..models.families import FAMILIES, render_prompt

    architecture = model.entry.architecture if model.entry is not None else None
    if architecture in FAMILIES and not has_processor(spec.checkpoint, spec.revision):
        return spec.style or "chat", lambda request, _: Preview(render_prompt(architecture, request.prompt))

    resident = open_warm(spec, model, settings, may_start=False)
    if resident is not None:
        held.callback(resident.close)
    backend = resident or open_backend(spec)
    return backend.style, backend.preview


def _load(
    request: Request, before: dict[str, Image], limits: Limits, item: Item
) -> tuple[dict[str, Image], list[ItemError]]:
    """The images of a request, reusing those of the one before it, and why some are missing."""
    images: dict[str, Image] = {}
    failures: list[ItemError] = []
    own = {} if item.read_own is None else item.read_own()
    for source in dict.fromkeys(list_sources(request.prompt)):
        try:
            if source in own:
                images[source] = decode(own[source], source, limits)
            else:
                images[source] = before[source] if source in before else load(source, limits)
        except BaseException as error:
            failures.append(to_item_error(error))
    return images, failures


def _print(request: Request, shown: Preview, name: str, settings: Settings, *, is_first: bool) -> None:
    if settings.output.format == "jsonl":
        row = {
            "id": request.id,
            "prompt": shown.text,
            "image_tokens": shown.image_tokens,
            "prompt_tokens": shown.prompt_tokens,
        }
        emit(dump_row(row))
    else:
        emit(shown.text if is_first else f"\n{shown.text}")
    if shown.image_tokens is not None:
        each = " + ".join(str(tokens) for tokens in shown.image_tokens) or "0"
        settings.talk.note(f"{name}: {shown.prompt_tokens} tokens, of which images {each}")
