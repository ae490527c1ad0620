"""The kinds of tables, by the suffixes of their names: one class and one row each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from ..errors import UsageError
from ..images.names import name_source
from .record import CellChoice, RecordTable


@dataclass(frozen=True, slots=True)
class TableKind:
    """The class that reads a kind, imported when needed, and the extra it needs."""

    place: str
    needs: str = ""
    extra: str = ""


_PARQUET = TableKind("parquet_table:ParquetReader", "pyarrow", "tables")
_CSV = TableKind("csv_table:CsvReader")
_TAR = TableKind("tar_shard:ShardReader")
TABLES: dict[str, TableKind] = {
    ".parquet": _PARQUET,
    ".pq": _PARQUET,
    ".csv": _CSV,
    ".tsv": _CSV,
    ".tar": _TAR,
    ".tar.gz": _TAR,
    ".tgz": _TAR,
    ".lance": TableKind("lance_table:LanceReader", "lance", "lance"),
}


def find_kind(name: str) -> TableKind | None:
    """The kind of a file by its name; None if it is not a table."""
    lowered = name.lower().rstrip("/")
    return next((TABLES[suffix] for suffix in TABLES if lowered.endswith(suffix)), None)


def has_table_suffix(name: str) -> bool:
    return find_kind(name) is not None


def open_kind(name: str, wanted: CellChoice) -> RecordTable:
    """Open a table. Raises UsageError if it is none, or if its library is not installed."""
    kind = find_kind(name)
    if kind is None:
        raise UsageError(f"{name_source(name)} does not have the suffix of a table", hint=f"known: {', '.join(TABLES)}")
    if kind.needs and find_spec(kind.needs) is None:
        raise UsageError(f"{name_source(name)} needs {kind.needs}", hint=f"pip install 'idefics-cli[{kind.extra}]'")
    module, _, own = kind.place.partition(":")
    table: RecordTable = getattr(import_module(f".{module}", __package__), own)(name, wanted)
    return table
