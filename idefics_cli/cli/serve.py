"""What `idefics serve` does: run a server here or in the background, print its status, stop it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ..backends import Opening
from ..backends.daemon.backend import HEALTH, STOP, ask_server
from ..backends.daemon.runtime_dir import find_folder, is_locked, locked, make_folder
from ..config import Model
from ..errors import ModelError, NothingToDo, UsageError
from ..models.libraries import import_libraries
from ..values import ModelSpec
from .daemon import start_server, write_server
from .model_choice import choose_model, choose_spec
from .output import emit
from .resolve import read_size
from .settings import Settings
from .workers import choose_served

if TYPE_CHECKING:
    from ..backends.backend import Abilities
    from ..backends.local import LocalBackend
    from ..serve.workers import ServedPool

DEFAULT_HOST = "127.0.0.1"
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command's own options."""

    port: int | None = None
    host: str | None = None
    api_key: str | None = None
    queue: int | None = None
    request_timeout: float | None = None
    max_memory_in_flight: str | None = None
    allow_private_addresses: bool = False
    workers: str | None = None
    background: bool = False


def run_server(wanted: ServeOptions, settings: Settings) -> None:
    """Serve until stopped, or return once a server in the background is ready."""
    if wanted.port is None and wanted.host is not None:
        raise UsageError("--host needs --port", hint="add --port 8000")
    if wanted.port is None and wanted.api_key is not None:
        settings.talk.note("--api-key changes nothing without --port: the socket is yours alone")
    model = choose_model(settings)
    spec = choose_spec(model, settings)
    if wanted.background:
        _run_in_background(wanted, settings, spec, model)
        return
    folder = make_folder()
    with locked(folder):
        _serve(wanted, settings, model, spec)


def print_status() -> None:
    """Print the status of the running server. Raises NothingToDo if there is none."""
    said = ask_server("GET", HEALTH)
    if said is None:
        raise NothingToDo("no server is running", hint="start one with `idefics serve`")
    if said.get("keep_alive_seconds") is None:
        said["keep_alive_seconds"] = "forever"
    said |= {f"loaded_{name}": value for name, value in said.pop("loaded", {}).items() if value is not None}
    last = said.pop("last_call_seconds", None)
    said["last_call"] = "never" if last is None else f"{_describe_seconds(last)} ago"
    workers = said.get("workers", [])
    said["workers"] = [f"{one['name']} (process {one['pid']}, {one['status']})" for one in workers]
    for name, value in said.items():
        if value is None or value == []:
            continue
        shown = ", ".join(value) if isinstance(value, list) else value
        is_time = name.endswith("_seconds") and isinstance(value, int | float)
        emit(f"{name.removesuffix('_seconds').replace('_', ' ')}\t{_describe_seconds(value) if is_time else shown}")


def _describe_seconds(seconds: float) -> str:
    """A short time: 0.4 s, 12 s, 5 min 3 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def stop_server(settings: Settings) -> None:
    """Stop the running server and wait for its end. Raises NothingToDo if there is none."""
    said = ask_server("POST", STOP)
    if said is None:
        raise NothingToDo("no server is running")
    while is_locked(find_folder()):
        time.sleep(LOOK_SECONDS)
    settings.talk.note(f"the server with {said.get('model', 'the model')} has ended")


def _run_in_background(wanted: ServeOptions, settings: Settings, spec: ModelSpec, model: Model) -> None:
    if ask_server("GET", HEALTH) is not None:
        raise UsageError("a server is running already", hint="end it with `idefics serve --stop`")
    own = {f"--{name.replace('_', '-')}": value for name, value in asdict(wanted).items() if value not in (None, False)}
    own.pop("--background")
    # Not in the list of processes, which everybody can read.
    api_key = own.pop("--api-key", None)
    environment = {} if api_key is None else {"IDEFICS_API_KEY": api_key}
    given = settings.list_given() | own
    search = start_server(write_server(model, spec, given), spec, environment, may_join=False)
    if search.backend is None:
        raise ModelError(search.reason)
    settings.talk.note(f"serving {model.name} in the background, process {search.backend.pid}")
    search.backend.close()


def _serve(wanted: ServeOptions, settings: Settings, model: Model, spec: ModelSpec) -> None:
    workers = choose_served(wanted.workers or "1", spec)
    if not workers.devices:
        import_libraries()
    from ..backends.daemon.runtime_dir import identify
    from ..serve.lifecycle import Address, open_tcp, serve
    from ..serve.state import API_LIMITS, Rules, ServerState

    talk, options = settings.talk, settings.input
    stay_seconds = math.inf if settings.keep_alive_seconds is None else settings.keep_alive_seconds
    address = tcp = None
    if wanted.port is not None:
        address = Address(wanted.host or DEFAULT_HOST, wanted.port, wanted.api_key)
        tcp = open_tcp(address)
    rules, in_flight = Rules(), wanted.max_memory_in_flight
    rules = replace(
        rules,
        rows=settings.decoding.batch_size or rules.rows,
        queue=wanted.queue or rules.queue,
        timeout_seconds=wanted.request_timeout or rules.timeout_seconds,
        memory_bytes=rules.memory_bytes if in_flight is None else read_size("--max-memory-in-flight", in_flight),
        limits=replace(
            API_LIMITS,
            allow_private_addresses=wanted.allow_private_addresses,
            max_pixels=options.max_pixels or API_LIMITS.max_pixels,
            total_timeout_seconds=options.timeout or API_LIMITS.total_timeout_seconds,
            decode_seconds=options.decode_timeout or API_LIMITS.decode_seconds,
        ),
    )
    opening = Opening(spec, model.name, batch_size=rules.rows, cache_bytes=settings.cache_bytes, workers=workers)
    backend, abilities = _open_workers(opening) if workers.devices else _open_model(opening)
    places = ["commands of yours"]
    by = f" by {len(workers.devices)} processes" if workers.devices else ""
    urls: tuple[str, ...] = ()
    if tcp is not None and address is not None:
        host = f"[{address.host}]" if ":" in address.host else address.host
        urls = (f"http://{host}:{tcp.getsockname()[1]}/v1",)
        places += urls
    folder = make_folder()
    serve(
        lambda: ServerState(model.name, backend, identify(spec), rules, stay_seconds, urls, abilities=abilities),
        folder,
        tcp=tcp,
        address=address,
        on_ready=lambda: talk.note(f"serving {model.name}{by} to {' and '.join(places)}"),
        on_ending=lambda: talk.note("finishing the current requests; press Ctrl-C again to stop now"),
    )


def _open_model(opening: Opening) -> tuple[LocalBackend, Abilities]:
    from ..backends.local import LocalBackend
    from ..serve.abilities import find_abilities

    backend = LocalBackend(opening.spec, batch_size=opening.batch_size, cache_bytes=opening.cache_bytes)
    backend.load()
    return backend, find_abilities(backend)


def _open_workers(opening: Opening) -> tuple[ServedPool, Abilities]:
    from ..serve.workers import ServedPool

    pool = ServedPool(opening)
    return pool, pool.abilities
