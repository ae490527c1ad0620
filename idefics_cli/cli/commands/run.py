"""`idefics run`: ask with any template."""

from __future__ import annotations

from typing import Annotated

import typer

from ...errors import UsageError
from ..command import with_options
from ..declare import PROMPT, option
from ..options import PANELS, Images
from ..settings import Settings


@with_options(*PANELS, without=("template",))
def run(
    settings: Settings,
    template: Annotated[str, typer.Argument(show_default=False, help="Name of a template, or a .yaml file.")],
    images: Images = None,
    set_: Annotated[
        list[str] | None,
        option("--set", panel=PROMPT, metavar="NAME=VALUE", help="Fill in a field of the template (repeatable)."),
    ] = None,
) -> None:
    """Ask with any template, built in or your own."""
    from ..ask import Question, ask, list_asked

    ask(
        list_asked(images or [], Question("run", template=template, fields=parse_fields(set_ or [])), settings),
        settings,
    )


def parse_fields(settings: list[str]) -> tuple[tuple[str, str], ...]:
    """Read `name=value` arguments. A field set twice is a mistake."""
    fields: dict[str, str] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name:
            raise UsageError(f"--set {setting!r} is not name=value", hint="write --set question='What is this?'")
        if name in fields:
            raise UsageError(f"--set gives {name} twice")
        fields[name] = value
    return tuple(fields.items())
