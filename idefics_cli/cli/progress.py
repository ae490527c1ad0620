"""The progress of a run on a terminal: a line on standard error while it runs, and a summary at the end."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import IdeficsError, count_failures
from ..rows import Result
from ..runner.threads import start

if TYPE_CHECKING:
    import rich.progress


TIMES_SAID = 3
"""How often a warning of a kind is shown."""
WARNINGS_SAID = 4
"""How many warnings are shown in all, so that those of a folder fit on a screen."""
FAILURES_SAID = 5
"""How many failures are named; further ones are only counted."""
_WIDE_COLUMNS = 60
"""A terminal that is narrower has no room for a bar."""
_NUMBER = re.compile(r"\d[\d.,]*")


def count_codes(codes: Counter[str]) -> str:
    """How many failed of what: "12 not images, 4 timeouts"."""
    return ", ".join(count_failures(code, count) for code, count in codes.most_common())


class Tally:
    """The outcomes of the items of this run."""

    def __init__(self, *, counts_choices: bool = False) -> None:
        self.answered = 0
        self.choices: Counter[str] = Counter()
        """How often each choice was the answer, where there were choices."""
        self._counts_choices = counts_choices
        self.codes: Counter[str] = Counter()
        self.unforeseen = ""
        """The first unexpected failure (a bug)."""
        self.told: set[str] = set()
        """The ids of items whose failure was told before the run."""
        self.was_stopped = False
        self.has_only_counted = False
        """Whether there were warnings that were not shown."""
        self._warnings: Counter[str] = Counter()
        self._wordings: dict[str, str] = {}
        """A warning as it was shown first, and its kind once it was shown with other numbers."""
        self._said_warnings = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        if result.error is None:
            self.answered += 1
            if self._counts_choices:
                self.choices[str(result.data)] += 1
        else:
            self.codes[result.error.code] += 1
            if result.error.code == "internal":
                self.unforeseen = self.unforeseen or result.error.message

    def choose_warnings(self, result: Result) -> list[str]:
        """The warnings of a result that are shown: three of a kind, four in all; further ones are counted."""
        chosen = []
        for warning in result.warnings:
            bare = _drop_source(warning, result.images)
            kind = _NUMBER.sub("…", bare)
            self._warnings[kind] += 1
            if self._wordings.setdefault(kind, bare) != bare:
                self._wordings[kind] = kind
            if self._warnings[kind] > TIMES_SAID or self._said_warnings == WARNINGS_SAID:
                self.has_only_counted = True
                continue
            self._said_warnings += 1
            is_last = self._warnings[kind] == TIMES_SAID or self._said_warnings == WARNINGS_SAID
            chosen.append(f"{warning} (further ones are only counted)" if is_last else warning)
        return chosen

    def is_news(self, result: Result) -> bool:
        """Whether to print why a result failed: once only if the same prompt is too long for each image."""
        if result.error is None or result.error.code != "prompt_too_long":
            return result.error is not None and self.unsaid_failures == 0
        return self.codes[result.error.code] == 1

    @property
    def unsaid_failures(self) -> int:
        return max(0, self.failed - FAILURES_SAID)

    @property
    def failed(self) -> int:
        return self.codes.total()

    @property
    def total(self) -> int:
        return self.answered + self.failed

    def describe(self, done_before: int, failed_before: Counter[str], *, are_accepted: bool = False) -> str:
        """One line: the counts and the rate."""
        parts = [f"{self.answered:,} answered"]
        if self.failed:
            parts.append(f"{self.failed:,} of {self.total:,} failed ({count_codes(self.codes)})")
        if done_before:
            parts.append(f"{done_before:,} done before")
        if failed_before:
            way = "accepted" if are_accepted else "--existing retry-errors tries them again"
            parts.append(f"{failed_before.total():,} failed before ({count_codes(failed_before)}; {way})")
        if self._warnings:
            counts = self._warnings.most_common()
            kinds = "; ".join(f"{self._wordings[kind]}: {count:,}" for kind, count in counts)
            total = self._warnings.total()
            parts.append(f"{total:,} warning{'' if total == 1 else 's'} ({kinds})")
        seconds = time.monotonic() - self._began
        rate = f", {self.total / seconds:.1f} a second" if seconds > 1 and self.total else ""
        return f"{', '.join(parts)}, in {seconds:.1f} s{rate}"


def _drop_source(warning: str, sources: Sequence[str]) -> str:
    """A warning without the image that it names."""
    own = next((source for source in sources if warning.startswith(f"{source}: ")), None)
    return warning if own is None else warning[len(own) + 2 :]


class Progress:
    """A line on standard error with rate, failures and time left. Nothing unless it is a terminal."""

    def __init__(
        self, *, is_wanted: bool, count: Callable[[], int] | None, parts: int, skipped: Callable[[], int]
    ) -> None:
        """`count` counts the items of all parts, in a thread; `skipped` is how many were done before."""
        self._bar: rich.progress.Progress | None = None
        self._skipped = skipped
        if not is_wanted:
            return
        import rich.console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        # What is said beside the bar is broken already, but for words that are to stay whole.
        console = rich.console.Console(stderr=True, soft_wrap=True)
        if not console.is_terminal or console.is_dumb_terminal:
            return
        from rich.progress import Progress as Bar

        bar = self._bar = Bar(
            *([BarColumn(bar_width=min(40, console.width - 50))] if console.width >= _WIDE_COLUMNS else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[failures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # results are not talk, wherever they go
        )
        self._line = bar.add_task("", total=None, rate="", failures="")
        self._began = time.monotonic()
        if count is not None:
            start(functools.partial(self._find_total, bar, count, parts))

    def _find_total(self, bar: rich.progress.Progress, count: Callable[[], int], parts: int) -> None:
        with contextlib.suppress(IdeficsError):  # the run itself meets the same trouble and tells of it
            bar.update(self._line, total=count() // parts)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, tally: Tally, workers: tuple[int, int] | None = None) -> None:
        """Show the progress, and how many workers answer."""
        if self._bar is None:
            return
        rate = tally.total / max(time.monotonic() - self._began, 0.001)
        self._bar.update(
            self._line,
            completed=tally.total + self._skipped(),
            rate=f"{rate:.1f}/s{_count_workers(workers)}",
            failures=f"{tally.failed:,} failed" if tally.failed else "",
        )


def _count_workers(workers: tuple[int, int] | None) -> str:
    if workers is None:
        return ""
    here, all_there_are = workers
    return f" of {here} workers" if here == all_there_are else f" of {here} of {all_there_are} workers"
