"""`idefics serve`: keep a model loaded, for all commands of its user and for OpenAI clients."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import action, flag, option
from ..options import DecodingOptions, InputOptions, ModelOptions, OutputOptions
from ..settings import Settings

PANEL = "Server"


@with_options(
    ModelOptions,
    only={
        DecodingOptions: ("batch_size", "cache_memory"),
        InputOptions: ("max_pixels", "decode_timeout", "timeout"),
        OutputOptions: ("quiet",),
    },
    without=("style", "server", "server_timeout", "server_wait", "no_server"),
)
def serve(
    settings: Settings,
    port: Annotated[
        int | None,
        option(
            "--port",
            panel=PANEL,
            min=0,
            max=65535,
            help="Also speak the OpenAI API over TCP; 0 takes any free port.",
        ),
    ] = None,
    host: Annotated[str | None, option("--host", panel=PANEL, help="Address for TCP; 127.0.0.1 if not given.")] = None,
    api_key: Annotated[str | None, option("--api-key", panel=PANEL, help="The key that TCP clients must send.")] = None,
    queue: Annotated[
        int | None, option("--queue", panel=PANEL, min=1, help="Requests that may wait; 256 if not given.")
    ] = None,
    request_timeout: Annotated[
        float | None,
        option(
            "--request-timeout",
            panel=PANEL,
            min=0.1,
            help="Seconds until an API call times out; 300 if not given.",
        ),
    ] = None,
    max_memory_in_flight: Annotated[
        str | None,
        option(
            "--max-memory-in-flight",
            panel=PANEL,
            help="Memory for all running calls together, as 512MB; 2GB if not given.",
        ),
    ] = None,
    allow_private_addresses: Annotated[
        bool,
        flag(
            "--allow-private-addresses",
            panel=PANEL,
            help="Fetch images from the server's own network too: only where all clients are trusted.",
        ),
    ] = False,
    workers: Annotated[
        str | None,
        option(
            "--workers",
            panel=PANEL,
            metavar="auto|N",
            help="Share the work among processes: one on each GPU (auto), or N on the CPU; 1 if not given.",
        ),
    ] = None,
    background: Annotated[
        bool, flag("--background", panel=PANEL, help="Return as soon as the model is loaded.")
    ] = False,
    status: Annotated[bool, action("--status", panel=PANEL, help="Print the status of the running server.")] = False,
    stop: Annotated[
        bool, action("--stop", panel=PANEL, help="Stop the running server after its current requests.")
    ] = False,
) -> None:
    """Keep a model loaded: later commands find it, and with --port so do OpenAI clients.

    It listens on a socket that only you can reach, and ends after --keep-alive without work.
    """
    from ..serve import ServeOptions, print_status, run_server, stop_server

    if status or stop:
        print_status() if status else stop_server(settings)
        return
    own = ServeOptions(
        *(port, host, api_key, queue, request_timeout),
        *(max_memory_in_flight, allow_private_addresses, workers, background),
    )
    run_server(own, settings)
