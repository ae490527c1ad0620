"""What is found out before a model is asked: lines that cannot be asked, told before one is loaded, and labels too many
for a prompt, which are ranked with the template that names none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from ..backends import Outcome, Preview
from ..errors import ItemError, ModelError
from ..images import Limits, decode, load
from ..prompts.tasks import MANY_LABELS
from ..prompts.templates import load_template
from ..values import Image, Item, ModelSpec, Request, Style, list_sources
from .inputs import ItemList, choose_words
from .output import Talk, say_error
from .progress import FAILURES_SAID, Tally
from .settings import Settings

LINES_AHEAD = 10_000
"""How many lines are read before a model is loaded."""
NAMES_NONE = "classify-photo"
"""The template that ranks labels without naming them."""
_BLANK = b"P6 32 32 255\n" + bytes(3 * 32 * 32)


def tell_bad_lines(items: Iterator[Item], tally: Tally, talk: Talk) -> tuple[Iterator[Item], bool]:
    """The same items, and whether none of them can be asked. The errors of the first lines are printed here."""
    head = list(islice(items, LINES_AHEAD))
    bad = [item for item in head if item.problem]
    for item in bad if talk.verbose else bad[:FAILURES_SAID]:
        say_error(item.problem)
        tally.told.add(item.id)
    return chain(head, items), 0 < len(bad) == len(head) < LINES_AHEAD


class NoModel:
    """A backend for a run without requests."""

    spec = ModelSpec("none")
    style: Style = "completion"
    revision: str | None = None

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        raise ModelError("no model was loaded", hint="run the command again")

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        raise ModelError("no model was loaded", hint="run the command again")

    def close(self) -> None:
        pass


def may_not_fit(work: ItemList, settings: Settings) -> bool:
    """Whether the prompt names so many labels that it may be too long, and the user chose no template."""
    like = work.like
    return (
        like is not None
        and like.task == "classify"
        and like.is_ranked
        and len(like.labels) > MANY_LABELS
        and settings.prompt.template is None
    )


def avoid_naming(
    work: ItemList,
    items: Iterable[Item],
    first: Item,
    style: Style,
    preview: Callable[[Request, Mapping[str, Image]], Preview],
    settings: Settings,
) -> tuple[ItemList, Iterable[Item]]:
    """The work and its items, unchanged if the first prompt fits, else with a wording without the labels."""
    try:
        request = work.words(first, style)
        preview(request, {source: _load(source, settings.limits) for source in list_sources(request.prompt)})
    except ItemError as error:
        if error.code != "prompt_too_long":
            return work, items
        settings.talk.note(
            f"{error}: using --template {NAMES_NONE}, which does not name the {len(first.labels)} labels"
        )
    else:
        return work, items
    template = load_template(NAMES_NONE)

    def reword(item: Item) -> Item:
        fields = tuple((name, value) for name, value in item.fields if name != "labels")
        return replace(item, template=template.label, fields=fields)

    assert work.like is not None
    words = choose_words(template, settings.sidecars)
    return replace(work, words=words, like=reword(work.like)), map(reword, items)


def _load(source: str, limits: Limits) -> Image:
    """The image, or a blank one if it cannot be read: its error is reported with its row."""
    try:
        return load(source, limits)
    except ItemError:
        return decode(_BLANK, "blank", limits)
