"""From a command's words to rows: the flow that all commands share.

Everything the user set is resolved here, once, and everything that can be wrong without a model is found before one
is loaded. Imported when a command runs, never for `--help`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from itertools import chain, islice

import typer

from ..backends import DEFAULT_BATCH_SIZE, WINDOW_BATCHES, Backend, open_backend
from ..backends.daemon.backend import ResidentBackend
from ..config import SHAPES, Model
from ..errors import ItemError
from ..images import Limits
from ..results.ledger import is_in_shard, name_item, name_run
from ..runner.run import Report, run
from ..values import Image, Item, ModelSpec, Request, Result
from .daemon import open_warm
from .inputs import ItemList, Question, list_lines, list_work
from .log import log_to
from .options import Options
from .output import Talk, display_name, say
from .progress import Progress, Tally
from .results import Sinks, check_sidecars, choose_output, keep_inputs, open_sinks
from .settings import choose_cache_bytes, choose_limits, choose_model, choose_shard, choose_spec
from .signals import INTERRUPTED, Interrupts

__all__ = ["Question", "ask", "ask_lines", "open_chosen", "open_with"]

open_with: ContextVar[Callable[[ModelSpec, int], Backend]] = ContextVar("open_with")
"""Who opens backends in this context, where a program brings its own; `open_backend` if nobody was set."""


def ask(images: Sequence[str], question: Question, options: Options) -> None:
    """Answer a question about each image."""
    talk = Talk(options.quiet, options.verbose)
    with log_to(talk):
        answer(list_work(images, question, options, talk), options, talk)


def ask_lines(path: str, options: Options) -> None:
    """Answer each line of a batch file."""
    talk = Talk(options.quiet, options.verbose)
    with log_to(talk):
        answer(list_lines(path, options), options, talk)


def answer(work: ItemList, options: Options, talk: Talk) -> None:
    """Answer all items. Raises typer.Exit(1) when some of them failed, Exit(130) when it was interrupted."""
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported
    listed = work.items()
    head = list(islice(listed, 1 if work.is_stream else 2))
    if not head:
        raise work.nothing
    is_single = len(head) == 1 and not work.is_stream
    output = choose_output(work, options, is_single=is_single)
    index, shards = choose_shard(options)
    everything = check_sidecars(keep_inputs(chain(head, listed), output, work), options)
    items = (item for item in everything if is_in_shard(item, index, shards))
    limits = choose_limits(options)
    model = choose_model(options, talk)
    spec = choose_spec(model, options)
    with contextlib.suppress(ItemError):
        _check_wording(work.words(head[0], spec.style or work.any_style), options, talk)
    if options.dry_run:
        from .dry_run import print_prompts

        print_prompts(items, work.words, spec, model, limits, options)
        return
    run_name = name_run(model.name, _list_details(spec, limits, options), work.like)
    tally = Tally()
    interrupts = Interrupts(is_gentle=not is_single)
    with open_sinks(output, run_name, options, talk) as sinks, contextlib.ExitStack() as held:
        todo = sinks.skip_finished(replace(item, key=name_item(run_name, item)) for item in items)
        if (first := next(todo, None)) is not None:
            backend = open_chosen(spec, model, options, talk, held)
            results = _open_run(
                chain([first], todo), work, options, model, backend, limits, sinks, interrupts
            )
            progress = Progress(
                is_wanted=not (options.quiet or is_single or output.is_watched),
                count=work.count,
                parts=shards,
                skipped=lambda: sinks.done_before + sinks.failed_before,
            )
            with contextlib.closing(results), interrupts, progress:
                _write_results(results, sinks, tally, progress, options, talk)
    _conclude(tally, sinks, talk, was_interrupted=interrupts.can_stream)


def _open_run(
    items: Iterable[Item],
    work: ItemList,
    options: Options,
    model: Model,
    backend: Backend,
    limits: Limits,
    sinks: Sinks,
    interrupts: Interrupts,
) -> Generator[Result]:
    return run(
        items,
        lambda item: work.words(item, backend.style),
        backend,
        Report(
            model=model.name,
            full_text=options.full_text,
            top=work.top,
            doubt=_choose_doubt(model, backend),
        ),
        limits=limits,
        window=WINDOW_BATCHES * (options.batch_size or DEFAULT_BATCH_SIZE),
        is_ordered=not options.unordered,
        should_stop=interrupts.should_stop,
        on_text=sinks.output.streamer() if options.stream else None,
    )


def open_chosen(
    spec: ModelSpec, model: Model, options: Options, talk: Talk, held: contextlib.ExitStack
) -> Backend:
    """A running server that has the model, left when `held` is closed, or else the backend of the spec."""
    batch_size, cache_bytes = options.batch_size or DEFAULT_BATCH_SIZE, choose_cache_bytes(options)
    if (open_one := open_with.get(None)) is not None:
        return open_one(spec, batch_size)
    if spec.server is None and (resident := open_warm(spec, model, options, talk)) is not None:
        held.callback(resident.close)
        return resident
    return open_backend(
        spec,
        batch_size=batch_size,
        cache_bytes=cache_bytes,
        timeout_seconds=options.server_timeout,
    )


def _choose_doubt(model: Model, backend: Backend) -> Callable[[Image], str | None] | None:
    """What tells a picture that the embedded checkpoint was not made for; a server has said it with its answers."""
    if model.name != SHAPES:
        return None

    def describe(image: Image) -> str | None:
        if isinstance(backend, ResidentBackend) and backend.knows(image):
            return backend.recall_doubt(image)
        from ..shapes.world import describe_foreign

        return describe_foreign(image)

    return describe


def _list_details(spec: ModelSpec, limits: Limits, options: Options) -> dict[str, object]:
    """What else answers depend on, so that a file of rows is not gone on with when it changes."""
    return {
        "revision": spec.revision,
        "style": spec.style,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "detail": spec.detail,
        "background": limits.background,
        "full_text": options.full_text,
        **({"server": True} if spec.server else {}),
    }


def _write_results(
    results: Iterable[Result], sinks: Sinks, tally: Tally, progress: Progress, options: Options, talk: Talk
) -> None:
    """Write results as they come, until there are none or too many of them failed."""
    most = 1 if options.fail_fast else options.max_errors
    for result in results:
        sinks.write(result)
        tally.add(result)
        progress.show(tally)
        name = display_name(result.images) or result.id
        for warning in result.warnings:
            talk.note(f"{name}: {warning}")
        usage = result.usage
        talk.detail(
            f"{name}: {usage.prompt_tokens} + {usage.new_tokens} tokens in {result.seconds:.2f} s, "
            f"{usage.shared_tokens} of them shared"
        )
        if most is not None and tally.failed >= most:
            tally.was_stopped = True
            return


def _conclude(tally: Tally, sinks: Sinks, talk: Talk, *, was_interrupted: bool) -> None:
    """Say what the run came to and raise its exit code."""
    summary = tally.describe(sinks.done_before, sinks.failed_before)
    has_failed = bool(tally.failed or sinks.failed_before)
    if was_interrupted or tally.was_stopped:
        how = "interrupted" if was_interrupted else "stopped at the limit of failed items"
        with_file = "the same command goes on from here"
        without = "with --output FILE the same command would go on from there"
        say(f"{how}: {summary}; {with_file if sinks.are_files else without}")
    elif tally.total + sinks.done_before + sinks.failed_before > 1:
        if has_failed:
            say(summary)
        elif sinks.are_files:
            talk.note(summary)
        else:
            talk.detail(summary)
    if was_interrupted:
        raise typer.Exit(INTERRUPTED)
    if has_failed:
        raise typer.Exit(1)


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
