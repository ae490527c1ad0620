"""Where the rows of a run go, and which of its items were done before."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..content import has_changed, mark, read_mark
from ..errors import BadItem
from ..images import is_url
from ..jsonl import dump_row
from ..results.file import RowFile
from ..results.ledger import Run, list_spellings, name_item, name_wording
from ..results.sidecar_index import Origin
from ..results.sidecars import Sidecars, SidecarState, list_keywords
from ..rows import Result
from ..values import Item
from .output import Output
from .settings import Settings
from .targets import keeps_rows

if TYPE_CHECKING:
    from ..results.upload import RowUpload

CHECKED_AHEAD = 10_000
"""How many items are looked at before a model is loaded."""


@dataclass(slots=True)
class Sinks:
    """Standard output or a file, and sidecars. A context manager; `skip_finished` may run in another thread."""

    output: Output
    run: Run
    rows: RowFile | None = None
    upload: RowUpload | None = None
    is_whole: bool = False
    """Whether all items have been answered."""
    sidecars: Sidecars | None = None
    overwrites: bool = False
    overwrites_foreign: bool = False
    retries_changed: bool = False
    unwritten: dict[str, tuple[str, bytes, Sequence[str]]] = field(default_factory=dict)
    """Texts and marks of rows whose sidecar a stopped run did not write, by their sources."""
    kept: Counter[SidecarState] = field(default_factory=Counter)
    """Existing texts that were not replaced, counted by their origin."""
    refused: Counter[str] = field(default_factory=Counter)
    """Images that no text could be written into, counted by reason."""
    _wordings: dict[str, str] = field(default_factory=dict)
    """The origins of the texts of current items, by the items' keys."""
    codes: dict[str, str] = field(default_factory=dict)
    """Why the items of failed rows failed, by their keys."""
    left_alone: int = 0
    """Items that have no row, in a run that asks unsure rows again."""
    done_before: int = 0
    failed_before: Counter[str] = field(default_factory=Counter)
    """How many failed in earlier runs, by reason."""
    changed: int = 0
    """How many texts belong to an image that was replaced since."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.output.close()
        try:
            if self.rows is not None:
                self.rows.close()
        finally:
            if self.upload is not None:
                self.upload.close(is_whole=self.is_whole, puts=kind is not KeyboardInterrupt)

    @property
    def are_files(self) -> bool:
        """Whether results are kept, so that the same command can be continued."""
        return self.rows is not None or self.sidecars is not None

    def skip_finished(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that are still to be answered; the others are counted."""
        for item in map(self._name, items):
            standing = self.rows.lookup(item) if self.rows is not None else "todo"
            if standing == "todo" and self.rows is not None and self.rows.unsure is not None:
                found, root = self.rows.unsure.lookup(item)
                if found == "none":
                    self.left_alone += 1
                    continue
                standing = "todo" if found == "unsure" else found
                item = replace(item, instead_of=root)
            if self.sidecars is not None:
                wording = self._wordings[item.key] = name_wording(self.run, item)
                if standing == "done" and item.images[0] in self.unwritten:
                    text, known, words = self.unwritten.pop(item.images[0])
                    self._write_sidecar(item.images[0], text, Origin(wording, known), words)
                elif standing == "todo" and self.rows is None:
                    state = self.sidecars.inspect(item.images[0], wording)
                    self.changed += state == "changed"
                    is_done = state == "same" or (state == "changed" and not self.retries_changed)
                    standing = "done" if is_done and not self.overwrites else "todo"
                    if standing == "todo" and not self._may_write(state):
                        self.kept[state] += 1
                        continue
            self.done_before += standing == "done"
            if standing == "failed":
                self.failed_before[self.codes.get(item.key, "failed")] += 1
            if standing == "todo":
                yield item

    def _name(self, item: Item) -> Item:
        """The item with its key: that of its row, however its images were spelled then."""
        first = ""
        for images in list_spellings(item.images):
            key = name_item(self.run, item, images)
            if self.rows is None or self.rows.has(key):
                return replace(item, key=key)
            first = first or key
        return replace(item, key=first)

    def write(self, result: Result) -> None:
        """Write one result to all outputs at once. The row is written first: a missing sidecar can be made from it.

        A failed row does not replace an unsure one, which is better.
        """
        if self.sidecars is not None and self.sidecars.is_of_image:
            result = replace(result, contents=())
        is_kept = result.error is None or not result.instead_of
        if self.rows is not None and is_kept:
            self.rows.append(dump_row(result.to_row()), result.key, result.instead_of)
            if self.upload is not None:
                self.upload.notice()
        self.output.write(result)
        if self.sidecars is not None:
            wording = self._wordings.pop(result.key)
            if result.error is None:
                origin = Origin(wording, mark(result.contents))
                words = list_keywords(result.label, result.data)
                self._write_sidecar(result.images[0], result.text or "", origin, words, bool(result.instead_of))

    def _may_write(self, state: SidecarState) -> bool:
        if state == "foreign":
            return self.overwrites_foreign
        return state in ("none", "same", "changed") or self.overwrites

    def _write_sidecar(
        self, source: str, text: str, origin: Origin, keywords: Sequence[str], replaces_other: bool = False
    ) -> None:
        assert self.sidecars is not None
        state = self.sidecars.inspect(source, origin.wording)
        if self._may_write(state) or (replaces_other and state == "other"):
            try:
                self.sidecars.write(source, text, origin, keywords)
            except BadItem as error:
                self.refused[str(error)] += 1
        else:
            self.kept[state] += 1

    def describe_kept(self) -> list[str]:
        """What was not asked or not replaced, and the option that would."""
        foreign, other = self.kept["foreign"], self.kept["other"]
        lines = [f"metadata of {count:,} not written: {why}" for why, count in self.refused.most_common(3)]
        if changed := self.changed + (self.rows.changed if self.rows is not None else 0):
            have, them = ("image was", "it") if changed == 1 else ("images were", "them")
            way = "" if self.retries_changed else f"; --existing retry-changed asks about {them} again"
            lines.append(f"{changed:,} {have} replaced since the answer{way}")
        if self.left_alone:
            are = "item has no row and is" if self.left_alone == 1 else "items have no row and are"
            lines.append(f"{self.left_alone:,} {are} skipped; the command that began the file answers them")
        if foreign:
            are = "text that idefics did not write is" if foreign == 1 else "texts that idefics did not write are"
            them = "it" if foreign == 1 else "them"
            lines.append(f"{foreign:,} {are} kept; --overwrite-foreign replaces {them}")
        if other:
            are = "text of another wording is" if other == 1 else "texts of another wording are"
            them = "it" if other == 1 else "them"
            lines.append(f"{other:,} {are} kept; --existing overwrite replaces {them}")
        return lines


def check_sidecars(items: Iterable[Item], sidecars: Sidecars | None) -> Iterable[Item]:
    """The items, each of which needs a sidecar of its own. Raises UsageError if one of the first does not have it.

    The others are checked as they come: a long list is not waited for.
    """
    if sidecars is None:
        return items
    checked = sidecars.check(items)
    return chain(list(islice(checked, CHECKED_AHEAD)), checked)


def open_sinks(output: Output, run: Run, settings: Settings) -> Sinks:
    """Lock the outputs and read what they hold. Raises UsageError if it belongs to another run."""
    sidecars, existing = settings.sidecars, settings.output.existing
    rows, upload = None, None
    unwritten: dict[str, tuple[str, bytes, Sequence[str]]] = {}
    codes: dict[str, str] = {}
    if output.path is not None and keeps_rows(output.path, output.format.traits):

        def remember(row: dict[str, Any]) -> None:
            if row["error"] is not None:
                codes[row["key"]] = row["error"]["code"]
            source = _source_of(row)
            if sidecars is not None and source is not None and not sidecars.has(source):
                words = list_keywords(row.get("label"), row.get("data"))
                unwritten[source] = row["text"], read_mark(row), words

        upload = _open_upload(output, settings)
        try:
            rows = RowFile(
                output.path,
                "resume" if existing == "accept-errors" else existing or "resume",
                run,
                name=output.name,
                least=settings.output.min_confidence or 0.0,
                on_row=remember,
                has_changed=_has_changed,
            )
        except BaseException:
            if upload is not None:
                upload.close(is_whole=False)
            raise
        if rows.unsure is not None and not rows.unsure.count:
            settings.talk.note(
                f"{output.name} has only rows of this same command; another --model or --template may be surer"
            )
        if rows.was_repaired:
            settings.talk.note(f"{output.name}: the last line was cut off by a crash and has been repaired")
    return Sinks(
        output,
        run,
        rows,
        upload,
        sidecars=sidecars,
        overwrites=existing == "overwrite",
        retries_changed=existing == "retry-changed",
        overwrites_foreign=settings.output.overwrite_foreign,
        unwritten=unwritten,
        codes=codes,
    )


def _open_upload(output: Output, settings: Settings) -> RowUpload | None:
    """The upload of rows to a bucket, if they go there."""
    if output.url is None or output.path is None:
        return None
    from ..results.upload import RowUpload

    upload = RowUpload(output.url, output.path, is_replaced=output.existing == "overwrite")
    if not upload.is_sure:
        settings.talk.note(f"{output.name}: this store cannot keep apart two runs that begin at the same moment")
    return upload


def _has_changed(known: bytes, item: Item) -> bool:
    paths = [None if source in ("", "-") or is_url(source) else source for source in item.images]
    return has_changed(known, paths)


def _source_of(row: dict[str, Any]) -> str | None:
    """The only image of an answered row, if it still exists."""
    if row["error"] is not None or not row.get("text") or len(row.get("images", ())) != 1:
        return None
    try:
        source = os.fsdecode(base64.b64decode(row["path_b64"][0])) if "path_b64" in row else row["images"][0]
        return source if os.path.isfile(source) else None
    except (ValueError, LookupError, TypeError):  # edited by hand; no item is about it
        return None
