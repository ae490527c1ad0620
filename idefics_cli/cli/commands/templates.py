"""`idefics templates`: list, show and check the wordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..output import emit, emit_table

app = typer.Typer(help="List, show and check templates.", invoke_without_command=True)


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_templates()


@app.command("list")
def list_templates() -> None:
    """List the templates, your own included."""
    from ...prompts.templates import load_template, template_names

    emit_table([(name, load_template(name).description.strip()) for name in template_names()])


@app.command()
def show(
    name: Annotated[str, typer.Argument(show_default=False, help="Name of a template, or a .yaml file.")],
) -> None:
    """Show a template: its fields, then its YAML."""
    from ...config import template_folders
    from ...prompts.templates import load_template

    template = load_template(name)
    named = (folder / f"{name}.yaml" for folder in template_folders())
    path = next((path for path in named if path.is_file()), Path(name))
    fields = [key if value is None else f"{key} (default {value!r})" for key, value in template.fields.items()]
    emit(f"# {template.label}, from {path}")
    emit(f"# fields: {', '.join(fields) or 'none'} · images: {template.images}")
    emit(path.read_text(encoding="utf-8").rstrip())


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(show_default=False, metavar="FILE…", help="Template files.")],
) -> None:
    """Check template files; the first mistake is reported in one line."""
    from ...prompts.templates import load_template

    for file in files:
        # A bare word would be looked up as the name of a template.
        template = load_template(file if "/" in file or file.endswith((".yaml", ".yml")) else f"./{file}")
        emit(f"{file}: {template.label} is fine")
