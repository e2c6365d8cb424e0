"""One plain model folder of a job's adapter and its base, for whatever reads no adapters."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tunesmith.cli.cache import made_aside
from tunesmith.cli.client import Client
from tunesmith.cli.progress import waiting
from tunesmith.cli.results.pull import pull_artifacts, pull_base
from tunesmith.cli.trainer import run_tool
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.errors import InvalidRequest


def pull_merged(client: Client, job: JobObject, *, folder: Path, base: Path | None = None) -> list[Path]:
    """Write the complete model to `folder/model`: as the job made it, else merged here from adapter and base.

    Merging needs the trainer's libraries; the merged model is loaded again and compared before it is called done.

    Raises:
        NotFound: the job has no result.
        InvalidRequest: the folder for the model is not empty.
        ToolFailed: the libraries are missing, or what was merged says something else than base and adapter.
    """
    if any(artifact.kind == ArtifactKind.MODEL for artifact in client.artifacts(job.id)):
        return pull_artifacts(client, job.id, folder=folder, kind=ArtifactKind.MODEL)
    target = folder / ArtifactKind.MODEL
    if target.exists():
        raise InvalidRequest(f"{target} is there already.", param="--to", hint="name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".parts-") as parts:
        pull_artifacts(client, job.id, folder=Path(parts), kind=ArtifactKind.ADAPTER)
        under = base or pull_base(client, job, folder=Path(parts))
        adapter = Path(parts) / ArtifactKind.ADAPTER
        with waiting("merge the adapter into its base"), made_aside(target) as aside:
            run_tool(
                "tunesmith.worker.train.export.merge_folders",
                str(under.absolute()),
                str(adapter.absolute()),
                str(aside),
            )
    return sorted(path for path in target.rglob("*") if path.is_file())
