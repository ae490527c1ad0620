"""Which model a command asks and how it is loaded: what was set, then what is known of it, then what is built in."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..backends import pick_backend
from ..config import AUTO, Model, resolve_model
from ..errors import UsageError
from ..models.hub.cache import find_revision
from ..values import ModelSpec
from .declare import Fact
from .pull import pull_missing
from .settings import Settings


def choose_model(settings: Settings) -> Model:
    """The model named, or the best that fits this machine, downloaded if it must be."""
    options = settings.model
    if options.server is not None:
        return _choose_remote_model(options.server, settings)
    if options.server_timeout is not None:
        raise UsageError("--server-timeout needs --server", hint="--timeout is for fetching images")
    if options.model is None or options.model == AUTO:
        from .auto_model import choose_fitting

        return choose_fitting(settings)
    model = resolve_model(options.model)
    pull_missing(model, choose_revision(model, settings), settings)
    return model


def _choose_remote_model(address: str, settings: Settings) -> Model:
    from ..backends.openai.client import parse_server

    server = parse_server(address)
    if idle := settings.list_given(Fact.LOCAL):
        raise UsageError(f"{', '.join(idle)} cannot be told to a server", hint="leave it out with --server")
    if settings.model.style == "completion":
        raise UsageError("a server is asked in chat only", hint="leave --style completion out with --server")
    if settings.model.model is not None:
        return Model(settings.model.model, settings.model.model)
    from ..backends.openai.backend import find_model

    name = find_model(server)
    settings.talk.note(f"using {name}, the first model of the server (--model names another)")
    return Model(name, name)


def choose_revision(model: Model, settings: Settings) -> str | None:
    return settings.model.revision or find_revision(model)


def choose_spec(model: Model, settings: Settings) -> ModelSpec:
    """How the model is loaded. What no field of ModelSpec is called goes to `others`."""
    options = settings.model
    if options.server is not None:
        from ..backends.openai.client import parse_server

        return ModelSpec(model.checkpoint, style="chat", server=parse_server(options.server))
    if options.revision is not None and Path(model.checkpoint).is_dir():
        raise UsageError("--revision is for checkpoints on the hub", hint=f"{model.name} is a folder")
    known = {
        "revision": find_revision(model),
        "style": model.entry.style if model.entry else None,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "device": model.device,
        "detail": model.detail,
    }
    told = settings.list_values(Fact.SPEC)
    named = {field.name for field in fields(ModelSpec)}
    chosen: dict[str, Any] = {
        name: value for values in (known, told) for name, value in values.items() if value and name in named
    }
    others = {name: value for name, value in told.items() if name not in named}
    return ModelSpec(
        checkpoint=model.checkpoint,
        keeps_quantized=not options.no_quantized_cache,
        others=tuple(others.items()),
        scope=model.entry.scope if model.entry else None,
        **chosen,
    )


def list_run_details(spec: ModelSpec, settings: Settings) -> dict[str, object]:
    """What answers depend on besides the item and the model's name: rows of other details are of another run."""
    loaded = {field.name: getattr(spec, field.name) for field in fields(spec)} | dict(spec.others)
    details = {name: loaded.get(name, value) for name, value in settings.list_values(Fact.RUN).items()}
    if settings.calibration is not None:
        details |= {"calibration": settings.calibration.temperature}
    return details | ({"server": True} if spec.server else {})


def complete_decoding(settings: Settings) -> dict[str, Any]:
    """What replaces a template's decoding: what was given, and a single beam where the backend has no more."""
    beams = {} if pick_backend(settings.model.server).has_beams else {"num_beams": 1}
    return beams | dict(settings.changes)
