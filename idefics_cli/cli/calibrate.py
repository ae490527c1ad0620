"""What `idefics calibrate` does: fit a temperature, write it to a file, and print its effect."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UsageError
from ..eval.cases import read_cases
from ..eval.references import find_references, load_references
from ..eval.temperature import fit_temperature
from ..files import write_file
from ..images import is_url
from .output import emit
from .settings import Settings


def calibrate_rows(name: str, path: Path, references: Path | None, settings: Settings) -> None:
    """Write the file and print its content. Raises UsageError if there is too little to fit on."""
    given = settings.output.output
    if given is None and is_url(name):
        raise UsageError("rows in a bucket need another place for what is fitted", hint="name a file with --output")
    target = Path(given) if given is not None else path.with_name(f"{path.stem}.calibration.json")
    found = read_cases(path, load_references(references or find_references(path)))
    fitted = fit_temperature(list(found.cases.values()))
    document = json.dumps(fitted.to_json() | {"model": found.model}, ensure_ascii=False)
    try:
        write_file(target, f"{document}\n".encode())
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    emit(document)
    before, after = (f"{100 * one:.1f} %" for one in fitted.ece)
    settings.talk.note(
        f"expected calibration error: {before}; with temperature {fitted.temperature:g}: {after}, on rows it was not "
        f"fitted on; --calibration {target} applies it"
    )
