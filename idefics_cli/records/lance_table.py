"""Lance: the rows of its fragments in order; Lance itself applies conditions."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import lance

from ..errors import UsageError
from .record import CellChoice, Record, check_columns, choose_image
from .where import hold

ROWS = 64


class LanceReader:
    """A Lance dataset in a folder."""

    def __init__(self, name: str, wanted: CellChoice) -> None:
        self._name, self._wanted = name, wanted
        try:
            self._data = lance.dataset(name)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"{name} is not a readable Lance dataset") from error
        columns = self._data.schema.names
        large = [field.name for field in self._data.schema if "binary" in str(field.type)]
        self.image = choose_image(name, wanted, columns, large)
        check_columns(name, [one.column for one in wanted.conditions], columns)
        chosen = {self.image, *wanted.columns, *(one.column for one in wanted.conditions)}
        self._columns = [one for one in columns if one in chosen]

    def count_groups(self) -> list[int]:
        return [fragment.count_rows() for fragment in self._data.get_fragments()]

    def read(self, groups: Collection[int] | None = None) -> Iterator[Record]:
        place = 0
        conditions = " AND ".join(one.to_sql() for one in self._wanted.conditions) or None
        for number, fragment in enumerate(self._data.get_fragments()):
            if groups is not None and number not in groups:
                place += fragment.count_rows()
                continue
            # Row ids tell the place of a row among those that were left out.
            scanner = fragment.scanner(columns=self._columns, filter=conditions, batch_size=ROWS, with_row_id=True)
            for batch in scanner.to_batches():
                for cells in batch.to_pylist():
                    own = place + (cells.pop("_rowid") & 0xFFFFFFFF) + 1
                    if hold(self._wanted.conditions, cells):
                        yield Record(f"{self._name}#{own}", own, cells)
            place += fragment.count_rows()
