"""Replies as Markdown on a terminal, without broken words: a word wider than the screen is wrapped by the terminal
itself, so that it is copied as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import (
    BlockQuote,
    CodeBlock,
    Heading,
    ImageItem,
    ListItem,
    Markdown,
    MarkdownElement,
    Paragraph,
    TableElement,
)
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from .width import fit_table

_WORD = re.compile(r"\s*\S+\s*")
_ANY_WIDTH = 1_000_000
Line = list[Segment]


@dataclass(frozen=True)
class _WholeWords:
    """A text that is wrapped between words only."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if find_widest(self.text.plain) <= options.max_width:
            yield self.text
            return
        lines = [
            part
            for line in self.text.split(allow_blank=True)
            for part in line.divide(find_breaks(line.plain, options.max_width))
        ]
        for line in lines:
            line.rstrip()
            line.no_wrap, line.overflow = True, "ignore"
        lines[-1].end = self.text.end
        yield from lines


def find_widest(text: str) -> int:
    """The cells of the widest word."""
    return max(map(cell_len, text.split()), default=0)


def find_breaks(line: str, width: int) -> list[int]:
    """Before which words a line is wrapped so that each part fits, if it has several words."""
    breaks = []
    used = 0
    for word in _WORD.finditer(line):
        if used and used + cell_len(word[0].rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used += cell_len(word[0])
    return breaks


class _WholeParagraph(Paragraph):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _keep_words(super().__rich_console__(console, options))


class _WholeHeading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _keep_words(super().__rich_console__(console, options))


class _WholeImageItem(ImageItem):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _keep_words(super().__rich_console__(console, options))


def _keep_words(parts: RenderResult) -> RenderResult:
    for part in parts:
        yield _WholeWords(part) if isinstance(part, Text) else part


class _WholeCode(CodeBlock):
    """Code on a background, unless a word needs more room than that leaves."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        if find_widest(code) <= options.max_width - 2:
            yield from super().__rich_console__(console, options)
        else:
            text = Syntax(code, self.lexer_name, theme=self.theme).highlight(code)
            text.rstrip()
            yield _WholeWords(text)


class _WholeListItem(ListItem):
    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style("markdown.item.bullet", default="none")
        yield from self._indent(console, options, Segment(" • ", style))

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        style = console.get_style("markdown.item.number", default="none")
        text = f"{number}".rjust(len(str(last_number)) + 1) + " "
        yield from self._indent(console, options, Segment(text, style))

    def _indent(self, console: Console, options: ConsoleOptions, mark: Segment) -> RenderResult:
        room = options.update(width=options.max_width - mark.cell_length)
        lines = _render_lines(console, self.elements, room)
        yield from _put_before(lines, mark, Segment(" " * mark.cell_length), options.max_width)


class _WholeQuote(BlockQuote):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        mark = Segment("▌ ", self.style)
        room = options.update(width=options.max_width - 4)
        lines = (list(Segment.apply_style(line, self.style)) for line in _render_lines(console, self.elements, room))
        yield from _put_before(lines, mark, mark, options.max_width)


class _WholeTable(TableElement):
    """A table whose words need more room than there is becomes a list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            least = table.__rich_measure__(console, options.update(width=_ANY_WIDTH)).minimum
            if least <= options.max_width:
                yield table
                continue
            for line in fit_table(list(self._list_rows()), options.max_width, has_head=True):
                yield Text(line, no_wrap=True, overflow="ignore")

    def _list_rows(self) -> Iterator[list[str]]:
        rows = [self.header.row] if self.header is not None and self.header.row is not None else []
        for row in (*rows, *(self.body.rows if self.body is not None else [])):
            yield [cell.content.plain for cell in row.cells]


def _render_lines(console: Console, content: RenderableType, options: ConsoleOptions) -> Iterable[Line]:
    """The lines at their full width: rich's own method of that name cuts them."""
    return Segment.split_lines(console.render(content, options))


def _put_before(lines: Iterable[Line], first: Segment, others: Segment, width: int) -> RenderResult:
    """The lines with their marks. A line that only fits without its mark stands below it."""
    for number, line in enumerate(lines):
        mark = others if number else first
        length = Segment.get_line_length(line)
        if length <= width < mark.cell_length + length:
            if not number:
                yield first
                yield Segment.line()
        else:
            yield mark
        yield from line
        yield Segment.line()


class WholeMarkdown(Markdown):
    """To be printed with `crop=False`, as some lines may be wider than the screen."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "paragraph_open": _WholeParagraph,
        "heading_open": _WholeHeading,
        "fence": _WholeCode,
        "code_block": _WholeCode,
        "blockquote_open": _WholeQuote,
        "list_item_open": _WholeListItem,
        "image": _WholeImageItem,
        "table_open": _WholeTable,
    }


@dataclass(frozen=True)
class AsShown:
    """Lines wider than the screen, split as a terminal does: a live display has to count them."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in _render_lines(console, self.content, options):
            yield from _fold(line, options.max_width)
            yield Segment.line()


def _fold(line: Line, width: int) -> Iterator[Segment]:
    if Segment.get_line_length(line) <= width:
        yield from line
        return
    used = 0
    for text, style, _ in line:
        piece = ""
        for character in text:
            cells = cell_len(character)
            if used + cells > width:
                yield Segment(piece, style)
                yield Segment.line()
                piece, used = "", 0
            piece += character
            used += cells
        yield Segment(piece, style)
