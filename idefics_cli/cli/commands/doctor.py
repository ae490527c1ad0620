"""`idefics doctor`: is everything here that answers need, and are they right."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from ..options import OUTPUT, Options, flag, with_options

USED = {"device", "offline"}


@with_options(without={field.name for field in fields(Options)} - USED)
def doctor(
    options: Options,
    quick: Annotated[
        bool, flag("--quick", panel=OUTPUT, help="Look at the machine only; run no model.")
    ] = False,
    json: Annotated[bool, flag("--json", panel=OUTPUT, help="Print one JSON document for programs.")] = False,
) -> None:
    """Check this machine and installation; exit 1 if something is broken."""
    from ..doctor import run_checks

    run_checks(options, is_quick=quick, is_json=json)
