"""Where a table goes: a file or folder here, or objects in a bucket, which are written once the whole table is made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import UsageError
from ..images import Limits, is_url
from ..results.objects import ObjectFolder
from .conversion import FORMS, Conversion, FormName, check_form, check_library, convert
from .samples import IMAGES, METADATA

_PUTS = 8
"""How many images are put at a time."""


def check_table(name: FormName, target: str, *, is_replaced: bool) -> None:
    """Raise UsageError if rows cannot be written in this form, there."""
    if not is_url(target):
        check_form(name, Path(target), is_replaced=is_replaced)
        return
    check_library(name)
    form = FORMS[name]
    if form.is_folder and name != "imagefolder":
        raise UsageError(f"{name} is written beside images here", hint="name a folder")
    folder, last = _split(target)
    if not is_replaced and folder.exists(last):
        raise UsageError(f"{folder.name}/{last} exists", hint="name another, or replace it with --existing overwrite")


def write_table(
    rows: Path,
    name: FormName,
    target: str,
    *,
    columns: Sequence[str] = (),
    limits: Limits | None = None,
    tell: Callable[[str, str], None],
) -> Conversion:
    """Write rows in a form, replacing the target, wherever it is. Raises UsageError if a bucket refuses it."""
    if not is_url(target):
        return convert(rows, name, Path(target), columns=columns, limits=limits, tell=tell)
    folder, last = _split(target)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / last
        done = convert(rows, name, made, columns=columns, limits=limits, tell=tell)
        if FORMS[name].is_folder:
            _put_folder(made, target)
        else:
            folder.put_file(last, made)
    return done


def _put_folder(made: Path, target: str) -> None:
    """Write the images, then the lines that name them, then delete the objects of the former table."""
    images = ObjectFolder(f"{target.rstrip('/')}/{IMAGES}")
    former = {name for name, _ in images.list_objects()}
    names = sorted(path.name for path in (made / IMAGES).iterdir())
    with ThreadPoolExecutor(_PUTS) as pool:
        for _ in pool.map(lambda name: images.put_file(name, made / IMAGES / name), names):
            pass
    ObjectFolder(target).put_file(METADATA, made / METADATA)
    images.remove(sorted(former.difference(names)))


def _split(target: str) -> tuple[ObjectFolder, str]:
    """The folder of a place, and its name there."""
    folder, _, last = target.rstrip("/").rpartition("/")
    if not folder.partition("://")[2]:
        raise UsageError(f"{target} names no file in its bucket", hint="name one, as in s3://bucket/rows.csv")
    return ObjectFolder(folder), last
