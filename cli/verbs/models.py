"""Verbs about models: models ls, add, rm."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.verbs.options import Listed, ListFormat

app = typer.Typer(no_args_is_help=True, help="Base models to start from, and what came out.")


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List base models and fine-tuned ones."""
    from cli.client import Client

    with Client() as client:
        models = client.list_models()
    if form is ListFormat.JSON:
        output.as_json(models)
        return
    rows = [(model["id"], model["owned_by"], _status(model), output.moment(model["created"])) for model in models]
    output.table(("NAME", "OWNER", "STATUS", "CREATED"), rows)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    path: Annotated[Path | None, typer.Option(help="A folder with config.json, safetensors and a tokenizer.")] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="A GGUF file; it is converted once and kept in the cache.", dir_okay=False)
    ] = None,
    hub: Annotated[str | None, typer.Option(metavar="ID[@REVISION]", help="A repository of the model hub.")] = None,
) -> None:
    """Register a base model from a folder, a GGUF file or the hub."""
    if sum(source is not None for source in (path, gguf, hub)) != 1:
        raise typer.BadParameter("give exactly one of --path, --gguf and --hub.")
    from cli.client import Client
    from cli.models import sources
    from cli.models.folder import inspect
    from cli.models.register import register

    with Client() as client:
        if gguf is not None:
            path = sources.from_gguf(gguf)
        elif hub is not None:
            path = sources.from_hub(hub)
        assert path is not None  # noqa: S101 - exactly one is given
        folder = inspect(path)
        for warning in folder.warnings:
            output.note(f"note: {warning}")
        model = register(client, name, folder)
    output.data(model["id"])


@app.command()
def rm(name: Annotated[str, typer.Argument()]) -> None:
    """Forget a model; jobs that already run keep their weights."""
    from cli.client import Client

    with Client() as client:
        client.delete_model(name)
    output.note(f"removed {name}")


def _status(model: dict[str, object]) -> object:
    ours = model.get("tunesmith")
    return ours.get("status") if isinstance(ours, dict) else None
