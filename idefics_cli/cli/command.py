"""Panels of options in a command: as parameters that typer sees, and as one value, its settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from .declare import Panel, list_declared


def with_options(
    *panels: type[Panel],
    only: Mapping[type[Panel], Collection[str]] | None = None,
    without: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these panels as its one parameter `settings`; of the panels in `only` just the named options.

    `without` names options that would have no effect in it.
    """
    named = only or {}
    assert not set(panels) & set(named), "a panel is taken whole or in part"

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "settings"
        ]
        taken = {
            panel: [one for one in list_declared(panel) if one.name in named.get(panel, (one.name,))]
            for panel in sorted((*panels, *named), key=lambda panel: panel.ORDER)
        }
        taken = {panel: [one for one in every if one.name not in without] for panel, every in taken.items()}

        def command(**values: Any) -> None:
            from .log import log_to
            from .resolve import resolve

            given = [panel(**{one.name: values.pop(one.name) for one in every}) for panel, every in taken.items()]
            settings = resolve(*given)
            if settings.model.offline:
                os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the library is imported, and by children
            with log_to(settings.talk):
                function(**values, settings=settings)

        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(one.name, kind, default=one.default, annotation=one.annotation)
            for every in taken.values()
            for one in every
        ]
        parameters = [*own, *shared]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        return command

    return decorate
