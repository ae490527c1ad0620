"""Which model a command asks and how it is loaded: what was set, then what is known of it, then what is built in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..backends import Backend, PoolingBackend, SizedBackend, pick_backend
from ..backends.daemon.backend import HEALTH, ask_server
from ..config import AUTO, Model, resolve_model
from ..errors import IdeficsError, UsageError
from ..files import read_file
from ..images import Limits
from ..models.hub.cache import find_revision
from ..values import ModelSpec
from .declare import Fact
from .pull import pull_missing
from .settings import Settings

MAX_LIST_BYTES = 1_000_000
"""A list of servers is not longer."""
PASSED_ON = ("--detail", "--think")
"""What of the options of a model on this machine a server is told of."""


def choose_model(settings: Settings) -> Model:
    """The model named, or the best that fits this machine, downloaded if it must be."""
    options = settings.model
    if options.server:
        return _choose_remote_model(options.server, settings)
    if options.server_timeout is not None:
        raise UsageError("--server-timeout needs --server", hint="--timeout is for fetching images")
    if options.server_wait is not None:
        raise UsageError("--server-wait needs --server", hint="leave it out")
    if options.model is None and (running := _choose_running(settings)) is not None:
        return running
    if options.model is None or options.model == AUTO:
        from .auto_model import choose_fitting

        return choose_fitting(settings)
    model = resolve_model(options.model)
    pull_missing(model, choose_revision(model, settings), settings)
    return model


def _choose_running(settings: Settings) -> Model | None:
    """The model of the server that runs, if there is one to be used."""
    if settings.model.no_server:
        return None
    try:
        said = ask_server("GET", HEALTH)
        model = None if said is None else resolve_model(str(said["model"]))
    except (IdeficsError, LookupError):
        return None
    if said is None or model is None or not isinstance(loaded := said.get("loaded"), dict):
        return None
    settings.talk.note(f"using {model.name}, which the running server has (--model names another)")
    return replace(model, loaded=tuple((name, value) for name, value in loaded.items() if value))


def _choose_remote_model(given: Sequence[str], settings: Settings) -> Model:
    servers = _read_servers(given)
    given_here = settings.list_given(Fact.LOCAL)
    if idle := {name: one for name, one in given_here.items() if name not in PASSED_ON}:
        raise UsageError(f"{', '.join(idle)} cannot be set on a server", hint="leave it out with --server")
    if settings.model.style == "completion":
        raise UsageError("a server takes chat messages only", hint="leave --style completion out with --server")
    named = settings.model.model
    if named is not None and len(servers) == 1:
        return Model(named, named)
    from ..backends.openai.backend import find_model

    name = find_model(servers, named)
    if named is None:
        whose = "the server" if len(servers) == 1 else f"{len(servers)} servers"
        settings.talk.note(f"using {name}, the first model of {whose} (--model names another)")
    return Model(name, name)


def _read_servers(given: Sequence[str]) -> tuple[str, ...]:
    """The addresses named, and those in files named as @FILE, each once."""
    from ..backends.openai.client import parse_server

    addresses: list[str] = []
    for one in given:
        if not one.startswith("@"):
            addresses.append(one)
            continue
        try:
            lines = read_file(one[1:], MAX_LIST_BYTES).decode().splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"--server: cannot read {one[1:]}: {reason}") from error
        listed = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not listed:
            raise UsageError(f"--server: {one[1:]} names no server", hint="write one address a line")
        addresses += listed
    return tuple(dict.fromkeys(map(parse_server, addresses)))


def choose_revision(model: Model, settings: Settings) -> str | None:
    return settings.model.revision or find_revision(model)


def choose_spec(model: Model, settings: Settings) -> ModelSpec:
    """How the model is loaded. Options that are not fields of ModelSpec go to `others`."""
    options = settings.model
    if options.server:
        return ModelSpec(
            model.checkpoint,
            style="chat",
            detail=options.detail,
            servers=_read_servers(options.server),
            others=(("think", True),) if options.think else (),
        )
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
    known |= dict(model.loaded)
    told = settings.list_values(Fact.SPEC)
    named = {field.name for field in fields(ModelSpec)}
    chosen: dict[str, Any] = {
        name: value for values in (known, told) for name, value in values.items() if value and name in named
    }
    others = {name: value for name, value in told.items() if value and name not in named}
    return ModelSpec(
        checkpoint=model.checkpoint,
        keeps_quantized=not options.no_quantized_cache,
        others=tuple(others.items()),
        scope=model.entry.scope if model.entry else None,
        **chosen,
    )


def list_run_details(spec: ModelSpec, settings: Settings) -> dict[str, object]:
    """What answers depend on besides the item and the model's name: rows with other details belong to another run.

    What was not set is left out, so that a later version, with more options, can resume the file.
    """
    loaded = {field.name: getattr(spec, field.name) for field in fields(spec)} | dict(spec.others)
    details = {name: loaded.get(name, value) for name, value in settings.list_values(Fact.RUN).items()}
    if settings.calibration is not None:
        details |= {"calibration": settings.calibration.temperature}
    details |= {"server": True} if spec.servers else {}
    return {name: value for name, value in details.items() if value is not None and value is not False}


def complete_decoding(settings: Settings) -> dict[str, Any]:
    """What replaces a template's decoding: what was given, and a single beam where the backend has no more."""
    beams = {} if pick_backend(has_servers=bool(settings.model.server)).has_beams else {"num_beams": 1}
    return beams | dict(settings.changes)


def limit_decoding(settings: Settings, backend: Backend) -> Limits:
    """The limits on images; with --fast-decode also the size to which the model scales them."""
    if not settings.input.fast_decode:
        return settings.limits
    edge = backend.image_edge if isinstance(backend, SizedBackend) else None
    if edge is None:
        settings.talk.note("--fast-decode changes nothing: this model does not say which size it wants")
    limits = replace(settings.limits, draft_edge=edge)
    if isinstance(backend, PoolingBackend):
        backend.limit_reading(limits)
    return limits
