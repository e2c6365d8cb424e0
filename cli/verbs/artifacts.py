"""Verbs about results: artifacts ls, artifacts pull."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import JobId, Listed, ListFormat

if TYPE_CHECKING:
    from tunesmith.cli.client import Client

app = typer.Typer(no_args_is_help=True, help="Results of jobs: adapters, models, tokenizers.")


@app.command()
def ls(job_id: JobId, form: Listed = ListFormat.TABLE) -> None:
    """List the files a job has produced."""
    from tunesmith.cli.client import Client

    with Client() as client:
        artifacts = client.artifacts(job_id)
    if form is ListFormat.JSON:
        output.as_json(artifacts)
        return
    rows = [
        (artifact.kind, file["name"], output.size(file["bytes"]), file["sha256"])
        for artifact in artifacts
        for file in artifact.files
    ]
    output.table(("KIND", "NAME", "SIZE", "SHA256"), rows)


@app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="JOB|MODEL|ALIAS", help="A job's id, or what it made.")],
    folder: Annotated[Path, typer.Option("--output", help="The folder to write to; it is made when missing.")],
    kind: Annotated[str | None, typer.Option(help="Only this kind: adapter, model, ...")] = None,
) -> None:
    """Download a job's results, each file verified by its sha256. A model, or an alias for one, stands for its job."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.download import pull_artifacts

    with Client() as client:
        written = pull_artifacts(client, _job_of(client, source), folder=folder, kind=kind)
    for path in written:
        output.data(str(path))


def _job_of(client: "Client", source: str) -> str:
    """The job that made a model.

    Raises:
        NotFound: the model was registered, not made by a job.
    """
    from tunesmith.tuning.errors import NotFound

    if not source.startswith("ft:"):
        return source
    model = client.model(source)
    if model.tunesmith.job_id is None:
        raise NotFound(f"{model.id} was registered, no job made it.", hint="name a model whose name begins with ft:")
    return model.tunesmith.job_id
