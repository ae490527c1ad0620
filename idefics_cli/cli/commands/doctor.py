"""`idefics doctor`: is everything here that answers need, and are they right."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import OUTPUT, flag
from ..options import ModelOptions
from ..settings import Settings


@with_options(only={ModelOptions: ("device", "offline")})
def doctor(
    settings: Settings,
    quick: Annotated[bool, flag("--quick", panel=OUTPUT, help="Look at the machine only; run no model.")] = False,
    json: Annotated[bool, flag("--json", panel=OUTPUT, help="Print one JSON document for programs.")] = False,
) -> None:
    """Check this machine and installation; exit 1 if something is broken."""
    from ..doctor import run_checks

    run_checks(settings, is_quick=quick, is_json=json)
