"""`idefics models`: which checkpoints there are, which fit, what they need; fetching and removing them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from ..options import INPUT, Options, flag, option, with_options
from ..output import Talk, ask_yes_or_no

app = typer.Typer(help="List, size, fetch and remove checkpoints.", invoke_without_command=True)
ALL = {field.name for field in fields(Options)}
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", show_default=False, help="Short name, hub id (org/name) or folder."),
]


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _list(Options())


@app.command("list")
@with_options(without=ALL - {"device", "format", "quiet"})
def list_models(options: Options) -> None:
    """List the checkpoints: what is downloaded, and at which precision each fits this machine."""
    _list(options)


@app.command()
@with_options(without=ALL - {"revision", "device", "detail", "batch_size", "offline", "format", "quiet"})
def info(
    name: Name,
    options: Options,
    tokens: Annotated[
        int,
        option(
            "--tokens", panel=INPUT, min=1, help="Tokens of each request, without images; 2048 if not given."
        ),
    ] = 2048,
    images: Annotated[
        int, option("--images", panel=INPUT, min=0, help="Images in each request; 1 if not given.")
    ] = 1,
) -> None:
    """Show what a checkpoint needs at each precision, and how that is computed."""
    from ...config import resolve_model
    from ...models.memory.estimate import Demand
    from ..model_tables import print_info

    demand = Demand(tokens, options.batch_size or 1, images, options.detail)
    print_info(resolve_model(name), demand, options)


@app.command()
@with_options(without=ALL - {"revision", "quiet"})
def pull(name: Name, options: Options) -> None:
    """Download a checkpoint, or what is missing of it: safetensors, settings, tokenizer."""
    from ...config import resolve_model
    from .. import pull as pulling
    from ..settings import choose_revision

    model = resolve_model(name)
    pulling.pull(model, choose_revision(model, options), Talk(options.quiet))


@app.command()
@with_options(without=ALL - {"quiet"})
def remove(
    name: Name,
    options: Options,
    yes: Annotated[bool, flag("--yes", "-y", panel=INPUT, help="Do not ask.")] = False,
) -> None:
    """Delete a downloaded checkpoint, all its revisions, and what is kept of it in quantized form."""
    from ...config import resolve_model
    from ...errors import NothingToDo, UsageError
    from ...models.hub.cache import remove_repo, repo_folder
    from ...models.hub.catalog import describe
    from ...models.memory.sizes import format_bytes
    from ...models.quantization.entries import remove_entries

    model = resolve_model(name)
    if Path(model.checkpoint).is_dir():
        raise UsageError(
            f"{name} is a folder and no download", hint="only what is in the hub's cache is removed"
        )
    listing = describe(model)
    if not repo_folder(model.checkpoint).is_dir():
        raise NothingToDo(f"{name} is not downloaded")
    size = format_bytes(listing.disk_bytes)
    if not yes and not ask_yes_or_no(f"delete {repo_folder(model.checkpoint)} ({size})?"):
        raise typer.Exit(1)
    freed = remove_repo(model.checkpoint) + remove_entries(model.checkpoint)
    Talk(options.quiet).note(f"removed {name}, {freed:,} bytes freed")


def _list(options: Options) -> None:
    from ..model_tables import print_list

    print_list(options)
