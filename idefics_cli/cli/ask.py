"""From a command's words to rows: the flow that caption, vqa, classify, write and run share.

Everything the user set is resolved here, once, and everything that can be wrong without a model is found before one
is loaded. Imported when a command runs, never for `--help`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import typer

from ..backends import Backend, open_backend
from ..config import SHAPES
from ..errors import NothingToDo, UsageError
from ..examples import Example, load_examples
from ..images import expand
from ..prompts import compose
from ..runner import Report, run
from ..shapes.world import describe_foreign
from ..tasks import name_labels, template_name
from ..templates import Template, load_template
from ..values import Item, ModelSpec, Normalization, Request, Result, Style
from .options import Options
from .output import Output, Talk, display_name, say
from .settings import choose_cache_bytes, choose_limits, choose_model, choose_spec, given_decoding

DEFAULT_BATCH_SIZE = 8

_SURROGATES = re.compile("[\ud800-\udfff]")

open_with: ContextVar[Callable[[ModelSpec, int], Backend]] = ContextVar("open_with")
"""Who opens backends in this context, where a program brings its own; `open_backend` if nobody was set."""


Words = Callable[[Item, Style], Request]


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
    top: int | None = None


def ask(images: Sequence[str], question: Question, options: Options) -> None:
    """Answer a question about each image and print the rows. Raises typer.Exit(1) when some of them failed."""
    talk = Talk(options.quiet, options.verbose)
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported
    template = load_template(
        question.template or template_name(question.task, options.template, question.prompt)
    )
    items = _list_items(images, template, question, options)
    first_two = list(islice(items, 2))
    if not first_two:
        raise NothingToDo(f"no images in {display_name(tuple(images))}", hint=_empty_hint(options))
    output = _choose_output(question, options, is_single=len(first_two) == 1)
    words = _choose_words(template, question, options, talk)
    limits = choose_limits(options)
    cache_bytes = choose_cache_bytes(options)
    model = choose_model(options, talk)
    spec = choose_spec(model, options)
    _check_wording(words(first_two[0], spec.style or _any_style(template)), options, talk)
    items = chain(first_two, items)
    if options.dry_run:
        from .preview import print_prompts

        print_prompts(items, words, spec, model, limits, options)
        return
    batch_size = options.batch_size or DEFAULT_BATCH_SIZE
    backend = open_with.get(partial(_open_backend, cache_bytes=cache_bytes))(spec, batch_size)
    results = run(
        items,
        lambda item: words(item, backend.style),
        backend,
        Report(
            model=model.name,
            task=question.task,
            template=template.label,
            full_text=options.full_text,
            top=question.top,
            labels=() if question.is_ranked else question.labels,
            doubt=describe_foreign if model.name == SHAPES else None,
        ),
        limits=limits,
        window=2 * batch_size,
        on_text=output.streamer() if options.stream else None,
    )
    _print_results(results, output, talk)


def _open_backend(spec: ModelSpec, batch_size: int, *, cache_bytes: int | None) -> Backend:
    return open_backend(spec, batch_size=batch_size, cache_bytes=cache_bytes)


def _print_results(results: Iterable[Result], output: Output, talk: Talk) -> None:
    total = failed = 0
    started = time.monotonic()
    with output:
        for result in results:
            output.write(result)
            total += 1
            failed += result.error is not None
            name = display_name(result.images) or result.id
            for warning in result.warnings:
                talk.note(f"{name}: {warning}")
            usage = result.usage
            talk.detail(
                f"{name}: {usage.prompt_tokens} + {usage.new_tokens} tokens in {result.seconds:.2f} s, "
                f"{usage.shared_tokens} of them shared"
            )
    talk.detail(f"{total} answered in {time.monotonic() - started:.1f} s")
    if failed:
        if total > 1:
            say(f"{failed} of {total} failed")
        raise typer.Exit(1)


def _list_items(
    images: Sequence[str], template: Template, question: Question, options: Options
) -> Iterator[Item]:
    """One item for each image and question, images outermost; one for all images with --together."""
    if not images and template.images == "required":
        raise NothingToDo("no images given", hint="name files, folders or URLs, or - for standard input")
    fields = question.fields
    if question.prompt is not None:
        fields = (*fields, ("prompt", question.prompt))
    if question.labels and "labels" in template.fields:
        fields = (*fields, ("labels", name_labels(question.labels)))
    sources = expand(images, recursive=options.recursive)
    groups: Iterable[tuple[str, ...]] = ((source,) for source in sources)
    if options.together:
        together = tuple(sources)
        groups = [together] if together else []
    if not images:
        groups = [()]
    for text in (*(value for _, value in fields), *question.questions):
        if _SURROGATES.search(text):
            raise UsageError(
                f"{text!r} is not UTF-8 text", hint="check the encoding of your terminal or file"
            )
    for group in groups:
        id = question.task if not group else group[0] if len(group) == 1 else f"{group[0]} +{len(group) - 1}"
        if not question.questions:
            yield Item(id, group, fields)
        for number, text in enumerate(question.questions, 1):
            name = id if len(question.questions) == 1 else f"{id}#{number}"
            yield Item(name, group, (*fields, ("question", text)))


def _empty_hint(options: Options) -> str:
    return "check the folder" if options.recursive else "add --recursive to look into subfolders too"


def _choose_output(question: Question, options: Options, *, is_single: bool) -> Output:
    to_file = options.output is not None and options.output != "-"
    output = Output(
        format=options.format or ("jsonl" if to_file else "text"),
        path=Path(options.output) if options.output is not None and to_file else None,
        existing=options.existing or "refuse",
        single=is_single,
        questions=len(question.questions) > 1,
        top=question.top,
    )
    if options.stream:
        if not is_single:
            raise UsageError("--stream is for a single answer", hint="give one image and one question")
        if output.format != "text" or output.path is not None:
            raise UsageError("--stream prints text", hint="leave --format jsonl and --output away")
        if options.full_text:
            raise UsageError("--stream and --full-text cannot be combined", hint="leave one of them away")
    return output


def _choose_words(template: Template, question: Question, options: Options, talk: Talk) -> Words:
    examples = _read_examples(options)
    decoding = given_decoding(options)
    choices = question.labels if question.is_ranked else ()
    if choices and decoding:
        talk.note(f"ranking labels draws no answer: {_flags(decoding)} changes nothing without --generate")

    def words(item: Item, style: Style) -> Request:
        request = compose(
            template,
            style,
            item,
            task=question.task,
            examples=examples,
            decoding=decoding,
            choices=choices,
        )
        return replace(request, normalize=question.normalize)

    return words


def _read_examples(options: Options) -> list[Example]:
    if options.examples is None:
        if options.shots:
            raise UsageError("--shots needs examples", hint="name a file with --examples")
        return []
    examples = load_examples(Path(options.examples))
    if options.shots is not None and options.shots > len(examples):
        raise UsageError(f"--shots {options.shots} but {options.examples} has {len(examples)} examples")
    return examples[: options.shots]


def _check_wording(request: Request, options: Options, talk: Talk) -> None:
    """Say which options cannot take effect, now that the template has been asked too."""
    if request.choices:
        return
    decoding = request.decoding
    idle = []
    if decoding.temperature == 0:
        idle += [name for name in ("top_p", "top_k", "seed") if getattr(options, name) is not None]
    if idle:
        talk.note(f"{_flags(idle)} changes nothing without --temperature above 0")
    if decoding.num_beams == 1 and options.length_penalty is not None:
        talk.note("--length-penalty changes nothing without --num-beams above 1")


def _flags(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _any_style(template: Template) -> Style:
    return "completion" if template.completion is not None else "chat"
