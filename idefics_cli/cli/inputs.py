"""The items of a command, from its arguments, its list of files or its lines, and their wording."""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..errors import NothingToDo, SourceError, UsageError
from ..files import is_own_stream, name_kind
from ..images import Limits, expand, name_source, read_names
from ..jsonl import read_lines
from ..prompts.answer_format import choose_new_tokens, parse_regex, parse_schema, to_choices
from ..prompts.compose import word
from ..prompts.shortest import count_least_characters
from ..prompts.tasks import name_labels, parse_labels, template_name
from ..prompts.templates import Template, load_template
from ..results.sidecars import Sidecars
from ..values import AnswerFormat, Decoding, Example, Item, Normalization, Request, Style
from .arguments import check_lines, check_words, describe_skipped
from .declare import join_flags
from .formats import FormatName
from .model_choice import complete_decoding
from .options import FORMATS, InputOptions, PromptOptions
from .output import display_name
from .pages import expand_pages, group_pages
from .settings import Settings

Words = Callable[[Item, Style], Request]
MOST_TOKEN_CHARACTERS = 8
"""An upper estimate of the characters in a token of an answer."""
SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Question:
    """What a command asks of every image, before a template words it."""

    task: str
    template: str | None = None
    """The template to use whatever the options say: the argument of `run`."""
    fields: tuple[tuple[str, str], ...] = ()
    questions: tuple[str, ...] = ()
    """Texts for the field `question`; each is asked by itself."""
    prompt: str | None = None
    labels: tuple[str, ...] = ()
    is_ranked: bool = True
    """Whether labels are ranked, rather than asked for in words."""
    normalize: Normalization = "none"
    values: tuple[float, ...] = ()
    """The number for each label, where their mean is asked for."""
    top: int | None = None
    answer_format: AnswerFormat | None = None
    """What answers must look like, where the command says so itself."""


@dataclass(frozen=True, slots=True)
class ItemList:
    """The items of a command and their wording."""

    items: Callable[[], Iterator[Item]]
    words: Words
    nothing: NothingToDo
    """What to say if there are no items."""
    is_stream: bool = False
    """Whether items may arrive at any time, so that none is delayed to see whether another one follows."""
    files: tuple[str, ...] = ()
    """The input, as the user named it."""
    are_lines: bool = False
    """Whether all that can be wrong with an item, but for its images, is known once it is listed."""
    count: Callable[[], int] | None = None
    """Counts the items, where they can be listed twice."""
    share: Callable[[int, int], Iterator[Item] | None] | None = None
    """The items of one part of so many, told their places; None where a part cannot be read without the others."""
    like: Item | None = None
    """What all items have in common, if they have the same wording."""
    any_style: Style = "completion"
    format: FormatName = "text"
    questions: bool = False
    top: int | None = None


def list_work(images: Sequence[str], question: Question, settings: Settings) -> ItemList:
    """The work of a task's command: each image with each question, images outermost; one item with --together."""
    template = choose_template(question, settings)
    options = settings.input
    _check_sources(images, template, options)
    check_words(images, question.task)
    fields = complete_fields(question, template)
    like = describe_item(question, template, settings)
    hint = "check the folder" if options.recursive else "add --recursive to look into subfolders too"
    given = display_name(tuple(images)) if images else f"the list {options.files_from}"

    told: list[str] = []

    def items() -> Iterator[Item]:
        skipped: Counter[str] = Counter()
        for group in _group(images, options, settings.limits, skipped):
            yield from ask_each(replace(like, id=_name_group(group, question), images=group), fields, question)
        if (
            line := describe_skipped(skipped, settings.sidecars.dotted if settings.sidecars else "")
        ) and not told:  # they may be listed twice
            told.append(line)
            settings.talk.note(line)

    can_be_listed_again = options.files_from is None or Path(options.files_from).is_file()
    return ItemList(
        items=items,
        words=choose_words(template, settings.sidecars),
        nothing=NothingToDo(f"no images in {given}", hint=hint),
        is_stream=options.files_from is not None,
        files=tuple(
            name for name in (*images, options.files_from, settings.prompt.examples, settings.prompt.template) if name
        ),
        count=(lambda: sum(1 for _ in items())) if can_be_listed_again else None,
        like=like,
        any_style="completion" if template.completion is not None else "chat",
        questions=len(question.questions) > 1,
        top=question.top,
    )


def choose_template(question: Question, settings: Settings) -> Template:
    """The template that words a question. Raises UsageError."""
    return load_template(question.template or template_name(question.task, settings.prompt.template, question.prompt))


def describe_item(question: Question, template: Template, settings: Settings) -> Item:
    """What all items of a question have in common. Raises UsageError."""
    answer_format = question.answer_format or choose_format(settings.prompt) or template.answer_format
    is_ranked = bool(question.labels) and question.is_ranked
    if is_ranked and settings.changes:
        flags = join_flags(settings.changes)
        settings.talk.note(f"ranking labels generates no text: {flags} changes nothing without --generate")
    decoding = Decoding()
    if not is_ranked:
        drawn = replace(template.decoding.to_decoding(), **complete_decoding(settings))
        decoding = complete_for_format(drawn, answer_format, settings)
    return Item(
        id="",
        task=question.task,
        template=template.label,
        examples=_read_examples(settings.prompt),
        decoding=decoding,
        answer_format=answer_format,
        has_own_stop="stop" in settings.changes,
        labels=question.labels,
        is_ranked=is_ranked,
        normalize=question.normalize,
        values=question.values,
    )


def choose_format(options: PromptOptions) -> AnswerFormat | None:
    """The format of answers, from the options. Raises UsageError."""
    given = [name for name in FORMATS if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(f"{join_flags(given)} cannot be combined", hint="leave out all but one")
    if options.schema is not None:
        return parse_schema(options.schema)
    if options.regex is not None:
        return parse_regex(options.regex)
    return None if options.choices is None else to_choices(parse_labels(options.choices))


def complete_for_format(decoding: Decoding, wanted: AnswerFormat | None, settings: Settings) -> Decoding:
    """The decoding of a format: as long as it needs, without a template's beams. Raises UsageError."""
    if wanted is None:
        return decoding
    beams = settings.changes.get("num_beams", 1)
    if beams > 1 and decoding.temperature > 0:
        raise UsageError("sampling with beams cannot follow a format", hint="leave out --temperature or --num-beams")
    tokens = settings.changes.get("max_new_tokens", choose_new_tokens(wanted))
    if count_least_characters(wanted) > tokens * MOST_TOKEN_CHARACTERS:
        raise UsageError(f"no answer of {tokens} tokens can have this format", hint="raise --max-new-tokens")
    return replace(decoding, max_new_tokens=tokens, num_beams=beams, stop=())


def list_lines(path: str, settings: Settings) -> ItemList:
    """The work of `batch`: an item for each line of a file."""
    from ..prompts.items import ItemReader

    check_lines(path)
    folder = Path() if path == "-" else Path(path).parent
    reader = ItemReader(
        folder,
        complete_decoding(settings),
        answer_format=choose_format(settings.prompt),
        has_stdin=path != "-",
    )

    def items() -> Iterator[Item]:
        with _open(path) as stream:
            yield from reader.read(read_lines(stream))

    def count() -> int:
        with _open(path) as stream:
            return sum(1 for _ in read_lines(stream))

    return ItemList(
        items=items,
        words=reader.compose,
        nothing=NothingToDo(f"no items in {'standard input' if path == '-' else path}"),
        is_stream=True,
        files=(path,),
        are_lines=Path(path).is_file(),
        count=count if Path(path).is_file() else None,
        format="jsonl",
    )


def _check_sources(images: Sequence[str], template: Template, options: InputOptions) -> None:
    if options.null and options.files_from is None:
        raise UsageError("-0 says how the list of --files-from is separated", hint="name it with --files-from")
    if options.files_from == "-" and "-" in images:
        raise UsageError("standard input cannot be both a list and an image", hint="put the list into a file")
    if not images and options.files_from is None and template.images == "required":
        raise NothingToDo("no images given", hint="name files, folders or URLs, or - for standard input")


def complete_fields(question: Question, template: Template) -> tuple[tuple[str, str], ...]:
    """The fields that a command gives to all its items. Raises UsageError."""
    fields = question.fields
    if question.prompt is not None:
        fields = (*fields, ("prompt", question.prompt))
    if question.labels and "labels" in template.fields:
        fields = (*fields, ("labels", name_labels(question.labels)))
    for text in (*(value for _, value in fields), *question.questions):
        if SURROGATES.search(text):
            raise UsageError(f"{text!r} is not UTF-8 text", hint="check the encoding of your terminal or file")
    return fields


def _group(
    images: Sequence[str], options: InputOptions, limits: Limits, skipped: Counter[str]
) -> Iterator[tuple[str, ...]]:
    """The images of each prompt."""
    if not images and options.files_from is None:
        yield ()
        return
    sources = expand_pages(list_sources(images, options, skipped), options.pages, limits)
    if not options.together:
        yield from ((source,) for source in sources)
        return
    yield from group_pages(tuple(sources))


def list_sources(images: Sequence[str], options: InputOptions, skipped: Counter[str] | None = None) -> Iterator[str]:
    documents = options.pages is not None
    yield from expand(images, recursive=options.recursive, documents=documents, skipped=skipped)
    if options.files_from is not None:
        with _open(options.files_from) as stream:
            names = read_names(stream, is_null_separated=options.null)
            yield from expand(names, recursive=options.recursive, patterns=False, documents=documents, skipped=skipped)


def _name_group(group: tuple[str, ...], question: Question) -> str:
    if not group:
        return question.task
    return group[0] if len(group) == 1 else f"{group[0]} +{len(group) - 1}"


def ask_each(item: Item, fields: tuple[tuple[str, str], ...], question: Question) -> Iterator[Item]:
    """An item for each question about the same images."""
    if not question.questions:
        yield replace(item, fields=fields)
    for number, text in enumerate(question.questions, 1):
        name = item.id if len(question.questions) == 1 else f"{item.id}#{number}"
        yield replace(item, id=name, fields=(*fields, ("question", text)))


def choose_words(template: Template, chosen: Sidecars | None) -> Words:
    """The wording of items. It raises ItemError for an item that cannot be asked."""
    if not template.uses_sidecar:
        return lambda item, style: word(template, style, item)
    sidecars = chosen or Sidecars()
    has_default = template.fields.get("sidecar") is not None

    def words(item: Item, style: Style) -> Request:
        source = item.images[0] if item.images else ""
        text = None if "sidecar" in dict(item.fields) else sidecars.read(source)
        if text is not None:
            item = replace(item, fields=(*item.fields, ("sidecar", text)))
        elif not has_default and "sidecar" not in dict(item.fields):
            beside = sidecars.path_of(source)
            missing = f"{name_source(str(beside))} is not there" if beside else "nothing can be beside it"
            raise SourceError(f"no text for $sidecar: {missing}", code="not_found")
        return word(template, style, item)

    return words


def _read_examples(options: PromptOptions) -> tuple[Example, ...]:
    if options.examples is None:
        if options.shots:
            raise UsageError("--shots needs examples", hint="name a file with --examples")
        return ()
    from ..prompts.examples import load_examples

    examples = load_examples(Path(options.examples))
    if options.shots is not None and options.shots > len(examples):
        raise UsageError(f"--shots {options.shots} but {options.examples} has {len(examples)} examples")
    return tuple(examples[: options.shots])


def _open(path: str) -> IO[bytes]:
    try:
        if path != "-":
            if name_kind(os.stat(path).st_mode) == "a device" and not is_own_stream(path):
                raise UsageError(f"{path} is a device", hint="name a file, or - for standard input")
            return open(path, "rb")
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("standard input is closed", hint="pipe a list into it")
        try:
            # A handle of its own: the interpreter cannot end while a thread waits within its sys.stdin.
            return open(os.dup(sys.stdin.fileno()), "rb")
        except io.UnsupportedOperation:
            return sys.stdin.buffer
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
