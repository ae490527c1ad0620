"""How options are declared: a flag, its environment variable, its key in config.yaml, and its other effects.

A panel is a frozen dataclass whose fields are options. Whatever needs options in general (a command's parameters, a
server's arguments, what distinguishes runs) reads the panels instead of lists of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import Flag, auto
from typing import Any, ClassVar, get_type_hints

import typer

MODEL, PROMPT, DECODING, INPUT, TABLE, OUTPUT = "Model", "Prompt", "Decoding", "Input", "Table", "Output"
"""The panels of the help that commands share."""


class Fact(Flag):
    """What else an option affects. Written in its annotation, after the flag."""

    RUN = auto()
    """Answers depend on it: rows with another value belong to another run."""
    SPEC = auto()
    """A model is loaded with it: a part of ModelSpec, which must be the same in a running server."""
    LOCAL = auto()
    """Only a model on this machine can use it."""
    HANDED_ON = auto()
    """A server that a command starts in the background is started with it."""


HELD = Fact.LOCAL | Fact.HANDED_ON
"""How this machine runs a model."""
WEIGHTS = Fact.SPEC | HELD
"""How this machine holds the weights: another value needs them loaded again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Options that are shown together in the help, which lists the panels by ORDER."""

    ORDER: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """One option of a panel."""

    name: str
    flag: str
    facts: Fact
    default: Any
    annotation: Any


def option(*names: str, help: str, panel: str, **settings: Any) -> Any:
    """An option with its environment variable: `--num-beams` is also $IDEFICS_NUM_BEAMS."""
    long = next(name for name in names if name.startswith("--"))
    variable = "IDEFICS_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=help,
        envvar=variable,
        show_envvar=False,
        show_default=False,
        rich_help_panel=panel,
        **settings,
    )


def action(*names: str, help: str, panel: str, **settings: Any) -> Any:
    """A flag that makes the command do something else: not a setting, so neither the environment nor a file has it."""
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=panel, **settings)


def flag(*names: str, help: str, panel: str) -> Any:
    """An option without a value and without a `--no-` twin."""
    return option(*names, help=help, panel=panel)


_declared: dict[type[Panel], tuple[Declared, ...]] = {}


def list_declared(panel: type[Panel]) -> tuple[Declared, ...]:
    """The options of a panel, in their order."""
    if panel not in _declared:
        hints = get_type_hints(panel, include_extras=True)
        _declared[panel] = tuple(_read(field, hints[field.name]) for field in fields(panel))
    return _declared[panel]


def _read(field: Field[Any], hint: Any) -> Declared:
    info, *marks = hint.__metadata__
    # Typer takes the first name for a default until it sees that it stands in an annotation.
    long = next(name for name in (info.default, *info.param_decls) if name.startswith("--"))
    default = None if field.default is MISSING else field.default
    return Declared(field.name, long, marks[0] if marks else Fact(0), default, hint)


def list_given(values: Panel, fact: Fact | None = None) -> dict[str, Any]:
    """The options of a panel that were set, by their flags: all, or those with a fact."""
    return {
        one.flag: value
        for one in list_declared(type(values))
        if (fact is None or fact in one.facts) and (value := getattr(values, one.name)) != one.default
    }


def list_values(values: Panel, fact: Fact) -> dict[str, Any]:
    """The values of the options with a fact, by their names, set or not."""
    return {one.name: getattr(values, one.name) for one in list_declared(type(values)) if fact in one.facts}


def join_flags(names: Iterable[str]) -> str:
    """Options by their names, as a message shows them."""
    return ", ".join("--" + name.replace("_", "-") for name in names)


def write_arguments(given: Mapping[str, Any]) -> list[str]:
    """Options by their flags as the words of a command line."""
    words: list[str] = []
    for name, value in given.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [name] if one is True else [name, str(one)]
    return words
