"""Verbs about results: artifacts ls, artifacts pull, and export."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.results.forms import ExportForm, GgufType
from tunesmith.cli.verbs.options import JobName, Listed, ListFormat

app = typer.Typer(no_args_is_help=True, help="Results of jobs: adapters, models, tokenizers.")

Folder = Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Where to write. [default: the job's id]")]
Base = Annotated[Path | None, typer.Option("--base", metavar="FOLDER", help="The base model is there.")]


def register(parent: typer.Typer) -> None:
    """Add the verb that stands by itself."""
    parent.command(rich_help_panel="Results and models")(export)


@app.command()
def ls(job: JobName, form: Listed = ListFormat.TABLE) -> None:
    """List the files a job has produced."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id

    with Client() as client:
        artifacts = client.artifacts(find_job_id(client, job))
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
    job: JobName,
    folder: Folder = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: adapter, model, ...")] = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="Also the base under the adapter.")] = False,
    base: Base = None,
    merged: Annotated[
        bool,
        typer.Option("--merged", help="One complete model; merging here needs the trainer's libraries."),
    ] = False,
) -> None:
    """Download a job's results, each file verified by its sha256. A model, or an alias for one, stands for its job.

    A checkpoint is named as it is listed: `ft:...:ckpt-step-120`. An adapter is told where its base is.
    """
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.results.checkpoints import job_of_checkpoint, pull_checkpoint
    from tunesmith.cli.results.merge import pull_merged
    from tunesmith.cli.results.pull import lacks_base, name_base, pull_artifacts, pull_base
    from tunesmith.tuning.codes import ArtifactKind

    _refuse_contradictions(kind=kind, with_base=with_base, base=base, merged=merged)
    if job_of_checkpoint(job) and (merged or kind):
        raise typer.BadParameter("a checkpoint has its weights alone: it goes with neither --merged nor --kind.")
    with Client() as client:
        of_checkpoint = job_of_checkpoint(job)
        job_id = find_job_id(client, of_checkpoint or job)
        target = folder or _default_folder(job_id)
        if of_checkpoint:
            written = pull_checkpoint(client, job_id, job, folder=target)
        elif merged:
            written = pull_merged(client, client.job(job_id), folder=target, base=base)
        else:
            written = pull_artifacts(client, job_id, folder=target, kind=kind)
        under = pull_base(client, client.job(job_id), folder=target) if with_base else base
    adapter = target / ArtifactKind.ADAPTER
    if under is not None and not merged and adapter.is_dir():
        name_base(adapter, under)
    for path in written:
        output.data(str(path))
    if lacks_base(target):
        output.note("the adapter's base is not on a hub: --with-base brings it, --base FOLDER names yours")


def export(
    job: JobName,
    form: Annotated[ExportForm, typer.Option("--for", help="Whom the model is for.")],
    folder: Folder = None,
    base: Base = None,
    kind: Annotated[
        GgufType, typer.Option("--type", help="How a GGUF file keeps its weights; q8_0 is half of f16.")
    ] = GgufType.F16,
) -> None:
    """Write a model for another engine: an adapter beside its base, one merged folder, or a GGUF file.

    What was written is loaded again and compared before it is called done; that needs the trainer's libraries.
    """
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.results import export as exporting

    _refuse_contradictions(kind=None, with_base=False, base=base, merged=True)
    with Client() as client:
        job_id = find_job_id(client, job)
        target = folder or _default_folder(job_id)
        for line in exporting.export(client, client.job(job_id), form=form, folder=target, base=base, kind=kind):
            output.data(line)


def _default_folder(job_id: str) -> Path:
    output.note(f"into the folder {job_id}; --to FOLDER names another")
    return Path(job_id)


def _refuse_contradictions(*, kind: str | None, with_base: bool, base: Path | None, merged: bool) -> None:
    if merged and (with_base or kind):
        raise typer.BadParameter("--merged is one complete model: it goes with neither --kind nor --with-base.")
    if with_base and base is not None:
        raise typer.BadParameter("give --with-base to fetch the base, or --base for yours, not both.")
    if base is not None and not (base / "config.json").is_file():
        raise typer.BadParameter(f"{base} holds no config.json.", param_hint="--base")
