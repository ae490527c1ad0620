"""`idefics models`: which checkpoints there are, which fit, what they need; fetching and removing them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..command import with_options
from ..declare import INPUT, flag, option
from ..options import DecodingOptions, ModelOptions, OutputOptions
from ..output import ask_yes_or_no
from ..settings import Settings

app = typer.Typer(help="List, size, fetch and remove checkpoints.", invoke_without_command=True)
NETWORK_HINT = "check the network; HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 forbids it"
Name = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="Short name, hub id (org/name) or folder.")
]


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from ..resolve import resolve

        _list(resolve())


@app.command("list")
@with_options(only={ModelOptions: ("device",), OutputOptions: ("format", "quiet")})
def list_models(settings: Settings) -> None:
    """List the checkpoints: what is downloaded, and at which precision each fits this machine."""
    _list(settings)


@app.command()
@with_options(
    only={
        ModelOptions: ("revision", "device", "detail", "offline"),
        DecodingOptions: ("batch_size",),
        OutputOptions: ("format", "quiet"),
    }
)
def info(
    name: Name,
    settings: Settings,
    tokens: Annotated[
        int,
        option("--tokens", panel=INPUT, min=1, help="Tokens of each request, without images; 2048 if not given."),
    ] = 2048,
    images: Annotated[int, option("--images", panel=INPUT, min=0, help="Images in each request; 1 if not given.")] = 1,
) -> None:
    """Show what a checkpoint needs at each precision, and how that is computed."""
    from ...config import resolve_model
    from ...models.memory.estimate import Demand
    from ..model_tables import print_info

    demand = Demand(tokens, settings.decoding.batch_size or 1, images, settings.model.detail)
    print_info(resolve_model(name), demand, settings)


@app.command()
@with_options(only={ModelOptions: ("revision",), OutputOptions: ("quiet",)})
def pull(name: Name, settings: Settings) -> None:
    """Download a checkpoint, or what is missing of it: safetensors, settings, tokenizer."""
    from ...config import resolve_model
    from ...errors import ModelError
    from .. import pull as pulling
    from ..model_choice import choose_revision

    model = resolve_model(name)
    try:
        pulling.pull(model, choose_revision(model, settings), settings.talk)
    except ModelError as error:
        if "models pull" not in str(error):
            raise
        raise ModelError(f"{name} cannot be downloaded: the hub cannot be reached", hint=NETWORK_HINT) from error


@app.command()
@with_options(only={OutputOptions: ("quiet",)})
def remove(
    name: Name,
    settings: Settings,
    yes: Annotated[bool, flag("--yes", "-y", panel=INPUT, help="Do not ask.")] = False,
) -> None:
    """Delete a downloaded checkpoint, all its revisions, and its quantized copies."""
    from ...config import resolve_model
    from ...errors import NothingToDo, UsageError
    from ...figures import format_bytes
    from ...models.hub.cache import remove_repo, repo_folder
    from ...models.hub.catalog import describe
    from ...models.quantization.entries import remove_entries

    model = resolve_model(name)
    if Path(model.checkpoint).is_dir():
        raise UsageError(f"{name} is a folder, not a download", hint="only what is in the hub's cache is removed")
    listing = describe(model)
    if not repo_folder(model.checkpoint).is_dir():
        raise NothingToDo(f"{name} is not downloaded")
    size = format_bytes(listing.disk_bytes)
    if not yes and not ask_yes_or_no(f"delete {repo_folder(model.checkpoint)} ({size})?"):
        raise typer.Exit(1)
    freed = remove_repo(model.checkpoint) + remove_entries(model.checkpoint)
    settings.talk.note(f"removed {name}, {freed:,} bytes freed")


def _list(settings: Settings) -> None:
    from ..model_tables import print_list

    print_list(settings)
