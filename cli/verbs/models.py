"""Verbs about models: models ls, add, rm."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat

if TYPE_CHECKING:
    from tunesmith.tuning.api.models import ModelObject

app = typer.Typer(no_args_is_help=True, help="Base models to start from, and what came out.")


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List base models and fine-tuned ones."""
    from tunesmith.cli.models.shapes import remembered

    own = remembered()
    models = _models_of_the_service(or_nothing=bool(own))
    known = {model.id for model in models}
    if form is ListFormat.JSON:
        here = [{"id": name, "tunesmith": {"status": "shape_only"}} for name in own if name not in known]
        output.as_json([*models, *here])
        return
    rows = [(model.id, model.owned_by, _status(model), output.moment(model.created)) for model in models]
    rows += [(name, "this computer", "shape only", "") for name in own if name not in known]
    output.table(("NAME", "OWNER", "STATUS", "CREATED"), rows)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    path: Annotated[Path | None, typer.Option(help="A folder with config.json, safetensors and a tokenizer.")] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="A GGUF file; it is converted once and kept in the cache.", dir_okay=False)
    ] = None,
    hub: Annotated[str | None, typer.Option(metavar="ID[@REVISION]", help="A repository of the model hub.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.json or its folder: only the shape, to plan with. Needs no service.")
    ] = None,
) -> None:
    """Register a base model from a folder, a GGUF file or the hub, or only its shape from a config.json."""
    if sum(source is not None for source in (path, gguf, hub, config)) != 1:
        raise typer.BadParameter("give exactly one of --path, --gguf, --hub and --config.")
    if config is not None:
        _add_shape(name, config)
        return
    from tunesmith.cli.client import Client
    from tunesmith.cli.models import sources
    from tunesmith.cli.models.folder import inspect
    from tunesmith.cli.models.register import register

    commit = None
    with Client() as client:
        if gguf is not None:
            path = sources.from_gguf(gguf)
        elif hub is not None:
            path, commit = sources.from_hub(hub)
        assert path is not None  # noqa: S101 - exactly one is given
        folder = inspect(path)
        for warning in folder.warnings:
            output.note(f"note: {warning}")
        model = register(client, name, folder, hub=commit)
    output.data(model.id)


@app.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="A repository of the model hub.")],
) -> None:
    """Have the service fetch a model from the hub, as far as its operator allows (TUNESMITH_HUB_MODELS)."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.models.fetch import fetch

    with Client() as client:
        model = fetch(client, name)
    output.note(f"commit {(model.tunesmith.hub or {}).get('commit')}")
    output.data(model.id)


@app.command()
def push(
    model: Annotated[str, typer.Argument(help="A tuned model, an alias for one, or its job.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made private if it is new.")],
) -> None:
    """Send a job's adapter or model with its card to the model hub; the token (HF_TOKEN) stays on this machine."""
    from tempfile import TemporaryDirectory

    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.models.sources import to_hub
    from tunesmith.cli.results.pull import pull_artifacts
    from tunesmith.tuning.codes import RESULT_KINDS

    with Client() as client, TemporaryDirectory(prefix="tunesmith-push-") as folder:
        job_id = find_job_id(client, model)
        made = [artifact.kind for artifact in client.artifacts(job_id) if artifact.kind in RESULT_KINDS]
        kind = made[0] if made else RESULT_KINDS[0]
        pull_artifacts(client, job_id, folder=Path(folder), kind=kind)
        output.data(to_hub(Path(folder) / kind, name))


@app.command()
def rm(name: Annotated[str, typer.Argument()]) -> None:
    """Forget a model; jobs that already run keep their weights."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.connection import NotConnected
    from tunesmith.cli.models import shapes

    was_here = shapes.forget(name)
    try:
        with Client() as client:
            client.delete_model(name)
    except NotConnected:
        if not was_here:
            raise
    output.note(f"removed {name}")


def _models_of_the_service(*, or_nothing: bool) -> "list[ModelObject]":
    from tunesmith.cli.client import Client
    from tunesmith.cli.connection import NotConnected

    try:
        with Client() as client:
            return client.list_models()
    except NotConnected:
        if or_nothing:
            return []
        raise


def _add_shape(name: str, path: Path) -> None:
    """Kept here, and at the service when there is one."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.connection import NotConnected
    from tunesmith.cli.models import shapes
    from tunesmith.cli.models.measure import with_shape
    from tunesmith.tuning.models.shape import ModelShape
    from tunesmith.tuning.values.units import count

    config = with_shape(shapes.read_config(path))
    shape = ModelShape.from_config(config)
    kept = shapes.remember(name, config)
    try:
        with Client() as client:
            client.register_model({"name": name, "config": config})
        where = "here and at the service"
    except NotConnected:
        where = "here; no service is known to tell"
    output.note(f"{shape.family}, {count(shape.parameters)} parameters, known {where} ({kept}).")
    output.note(f"try: tunesmith plan --model {name} --on 1xA100-80G")
    output.data(name)


def _status(model: "ModelObject") -> str:
    return model.tunesmith.status.replace("_", " ")
