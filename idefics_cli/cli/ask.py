"""From a command's words to rows: the flow that all commands share.

Everything the user set is resolved here, once, and everything that can be wrong without a model is found before one
is loaded. Imported when a command runs, never for `--help`.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from itertools import chain, islice

import typer

from ..backends import (
    DEFAULT_BATCH_SIZE,
    WINDOW_BATCHES,
    Backend,
    Opening,
    Workers,
    close_backends,
    open_as,
    pick_backend,
)
from ..config import Model
from ..errors import ItemError, ModelError, ServerLost, UsageError
from ..figures import align
from ..results.ledger import name_run, take_shard
from ..rows import Result
from ..runner.run import Report, run
from ..values import Item, ModelSpec, Request
from .daemon import open_warm
from .declare import join_flags
from .inputs import ItemList, Question, list_lines
from .log import ask_to_report
from .model_choice import choose_model, choose_spec, limit_decoding, list_run_details
from .output import display_name, say, tell_cost, tell_failure
from .preflight import NoModel, avoid_naming, may_not_fit, tell_bad_lines
from .progress import Progress, Tally
from .results import Sinks, check_sidecars, open_sinks
from .settings import Settings
from .signals import INTERRUPTED, Interrupts
from .table_inputs import list_asked
from .targets import choose_output, keep_inputs
from .workers import choose_all_cards, choose_workers

__all__ = ["Question", "ask", "list_asked", "list_lines", "open_chosen", "open_with"]

open_with: ContextVar[Callable[[ModelSpec, int], Backend]] = ContextVar("open_with")
"""How backends are opened in this context, if a program sets its own way; else `open_backend`."""


def ask(work: ItemList, settings: Settings) -> None:
    """Answer all items. Raises typer.Exit(1) when some of them failed, Exit(130) when it was interrupted."""
    with contextlib.ExitStack() as held:
        _answer(work, settings, held)


def _answer(work: ItemList, settings: Settings, held: contextlib.ExitStack) -> None:
    listed = work.items()
    head = list(islice(listed, 1 if work.is_stream else 2))
    if not head:
        raise work.nothing
    is_single = len(head) == 1 and not work.is_stream
    output = choose_output(work, settings.output, is_single=is_single)
    others = []
    if settings.output.also:
        from .convert import choose_forms

        others = choose_forms(output, settings)
    index, shards = settings.shard
    own = work.share(index, shards) if work.share is not None and shards > 1 else None
    items: Iterable[Item] = check_sidecars(keep_inputs(own or chain(head, listed), output, work), settings.sidecars)
    if own is None:
        items = take_shard(items, index, shards, work.items if work.count is not None else None)
    _check_abilities(work, settings)
    model = choose_model(settings)
    spec = choose_spec(model, settings)
    with contextlib.suppress(ItemError):
        _check_wording(work.words(head[0], spec.style or work.any_style), settings)
    if settings.output.dry_run:
        from .dry_run import print_prompts

        print_prompts(work, items, head[0], spec, model, settings)
        return
    opened: Backend | None = None
    if not spec.servers and may_not_fit(work, settings):
        opened = open_chosen(spec, model, settings, held, is_single=is_single)
        work, items = avoid_naming(work, items, head[0], opened.style, opened.preview, settings)
    run_name = name_run(model.name, list_run_details(spec, settings), work.like)
    wanted = work.like.answer_format if work.like is not None else None
    tally = Tally(counts_choices=wanted is not None and wanted.kind == "choices")
    interrupts = Interrupts(is_gentle=not is_single)
    with open_sinks(output, run_name, settings) as sinks:
        todo, are_bad = sinks.skip_finished(items), False
        if work.are_lines:
            todo, are_bad = tell_bad_lines(todo, tally, settings.talk)
        if (first := next(todo, None)) is not None:
            backend: Backend | None = NoModel() if are_bad else opened
            backend = backend or open_chosen(spec, model, settings, held, is_single=is_single)
            results = _open_run(chain([first], todo), work, settings, model, backend, sinks, interrupts)
            progress = Progress(
                is_wanted=not (settings.output.quiet or is_single or output.is_watched),
                count=work.count,
                parts=shards,
                skipped=lambda: sinks.done_before + sinks.failed_before.total(),
            )

            def show(tally: Tally, progress: Progress = progress, backend: Backend = backend) -> None:
                progress.show(tally, getattr(backend, "workers", None))

            with contextlib.closing(results), interrupts, progress:
                try:
                    _write_results(results, sinks, tally, show, settings)
                except ServerLost as error:
                    raise _describe_loss(error, tally, sinks) from error
        is_whole = sinks.is_whole = not (interrupts.were_heard or tally.was_stopped)
    for line in sinks.describe_kept():
        settings.talk.note(line)
    if output.table is not None or others:
        from .convert import make_tables

        make_tables(others, output, settings, is_whole=is_whole)
    if sinks.upload is not None and is_whole:
        sinks.upload.forget()
    _conclude(tally, sinks, work, settings, was_interrupted=interrupts.were_heard)


def _open_run(
    items: Iterable[Item],
    work: ItemList,
    settings: Settings,
    model: Model,
    backend: Backend,
    sinks: Sinks,
    interrupts: Interrupts,
) -> Generator[Result]:
    return run(
        items,
        lambda item: work.words(item, backend.style),
        backend,
        Report(
            model=model.name,
            full_text=settings.output.full_text,
            top=work.top,
            least_confidence=settings.output.min_confidence,
            temperature=_choose_temperature(model, work, settings),
        ),
        limits=limit_decoding(settings, backend),
        window=WINDOW_BATCHES * (settings.decoding.batch_size or DEFAULT_BATCH_SIZE),
        is_ordered=not settings.output.unordered,
        should_stop=interrupts.should_stop,
        on_text=sinks.output.streamer() if settings.output.stream else None,
    )


def _choose_temperature(model: Model, work: ItemList, settings: Settings) -> float | None:
    """The temperature of --calibration, if given. Raises UsageError if it was fitted on another model."""
    if settings.calibration is None:
        return None
    if settings.calibration.model != model.name:
        raise UsageError(
            f"--calibration {settings.output.calibration} was fitted on {settings.calibration.model}, "
            f"not on {model.name}",
            hint="fit one on this model's rows with `idefics calibrate`",
        )
    if work.like is not None and not (work.like.labels and work.like.is_ranked):
        settings.talk.note("--calibration changes nothing where no labels are ranked")
    return settings.calibration.temperature


def open_chosen(
    spec: ModelSpec, model: Model, settings: Settings, held: contextlib.ExitStack, *, is_single: bool = True
) -> Backend:
    """A running server that has the model, disconnected when `held` is closed; else the backend of the spec, with
    several workers if --workers or the number of items asks for them.
    """
    batch_size = settings.decoding.batch_size or DEFAULT_BATCH_SIZE
    if (open_one := open_with.get(None)) is not None:
        return open_one(spec, batch_size)
    workers = choose_workers(settings)
    is_here = not spec.servers and workers == Workers()
    # A server that has the model does not say which size it wants.
    if is_here and not settings.input.fast_decode and (resident := open_warm(spec, model, settings)) is not None:
        held.callback(resident.close)
        return resident
    if is_here and not is_single:
        workers = choose_all_cards(spec, model, settings)
    if workers != Workers():
        held.callback(close_backends)
    return open_as(
        Opening(
            spec,
            name=model.name,
            batch_size=settings.decoding.batch_size,
            cache_bytes=settings.cache_bytes,
            timeout_seconds=settings.model.server_timeout,
            wait_seconds=settings.model.server_wait,
            workers=workers,
            limits=settings.limits,
        )
    )


def _write_results(
    results: Iterable[Result], sinks: Sinks, tally: Tally, show: Callable[[Tally], None], settings: Settings
) -> None:
    """Write results as they come, until the end or until too many have failed."""
    talk = settings.talk
    most = 1 if settings.output.fail_fast else settings.output.max_errors
    for result in results:
        sinks.write(result)
        tally.add(result)
        show(tally)
        name = display_name(result.images) or result.id
        is_told = result.id in tally.told
        if result.error is not None and not is_told and (talk.verbose or tally.is_news(result)):
            tell_failure(name, result.error.message)
        for warning in tally.choose_warnings(result):
            talk.note(f"{name}: {warning}")
        tell_cost(name, result, talk)
        if most is not None and tally.failed >= most:
            tally.was_stopped = True
            return


def _conclude(tally: Tally, sinks: Sinks, work: ItemList, settings: Settings, *, was_interrupted: bool) -> None:
    """Print the summary of the run and raise its exit code."""
    accepts = settings.output.existing == "accept-errors"
    before = sinks.done_before + sinks.failed_before.total()
    summary = tally.describe(sinks.done_before, sinks.failed_before, are_accepted=accepts)
    has_failed = bool(tally.failed or (sinks.failed_before and not accepts))
    if was_interrupted or tally.was_stopped:
        how = "interrupted" if was_interrupted else "stopped at the limit of failed items"
        if work.count is not None and settings.shard[1] == 1 and (left := work.count() - tally.total - before) > 0:
            summary += f", {left:,} to go"
        with_file = "run the same command again to continue"
        without = "with --output FILE the same command would continue"
        say(f"{how}: {summary}; {with_file if sinks.are_files else without}")
    elif tally.total + before > 1:
        if has_failed:
            say(summary)
        elif sinks.are_files or tally.has_only_counted:
            settings.talk.note(summary)
        else:
            settings.talk.detail(summary)
    if tally.choices.total() > 1:
        for line in align([(said, f"{count:,}") for said, count in tally.choices.most_common()]):
            settings.talk.note(line)
    has_unsaid = tally.unsaid_failures > 0 and not settings.talk.verbose
    if has_unsaid or (sinks.failed_before and not accepts):
        settings.talk.note(_say_where_failures_are(sinks))
    if tally.unforeseen:
        ask_to_report(tally.unforeseen)
    if was_interrupted:
        raise typer.Exit(INTERRUPTED)
    if has_failed:
        raise typer.Exit(1)


def _describe_loss(error: ServerLost, tally: Tally, sinks: Sinks) -> ModelError:
    """The error that ended a run, with the number of rows that are done."""
    done = tally.total + sinks.done_before + sinks.failed_before.total()
    if done == 0:
        return error
    rows = "1 row is" if done == 1 else f"{done:,} rows are"
    go_on = "; run the same command again to continue" if sinks.are_files else ""
    return ModelError(str(error), hint=f"{rows} done{go_on}")


def _say_where_failures_are(sinks: Sinks) -> str:
    if sinks.rows is None:
        return "not all failures are named here; --verbose names them, --output rows.jsonl keeps them"
    path = shlex.quote(sinks.output.name)
    if sinks.upload is not None:
        return f"idefics find {path} is:failed --format jsonl | jq -r .error.message says why"
    if shutil.which("jq") is None:
        return f"idefics find {path} is:failed --format jsonl lists what failed and why"
    return f"jq -r 'select(.error) | [.id, .error.message] | @tsv' {path} lists what failed and why"


def _check_abilities(work: ItemList, settings: Settings) -> None:
    """Check, before anything is loaded, that the backend can do what is asked."""
    kind = pick_backend(has_servers=bool(settings.model.server), workers=choose_workers(settings))
    if settings.output.stream and not kind.streams:
        raise UsageError("this server does not stream", hint="leave --stream out")
    if work.like is not None and work.like.labels and work.like.is_ranked and not kind.ranks:
        raise UsageError("this server cannot rank labels", hint="add --generate to ask for the label in words")


def _check_wording(request: Request, settings: Settings) -> None:
    """Warn of options without effect, once the template's decoding is known too."""
    if request.choices:
        return
    decoding, talk = request.decoding, settings.talk
    idle = []
    if decoding.temperature == 0:
        idle += [name for name in ("top_p", "top_k", "seed") if name in settings.changes]
    if idle:
        talk.note(f"{join_flags(idle)} changes nothing without --temperature above 0")
    if settings.output.stream and decoding.num_beams > 1:
        talk.note(
            f"{decoding.num_beams} beams cannot stream: the answer is shown when it is complete; --num-beams 1 streams"
        )
    if decoding.num_beams == 1 and "length_penalty" in settings.changes:
        talk.note("--length-penalty changes nothing without --num-beams above 1")
