"""A job's results in a folder: its artifacts by kind, and the base model beside an adapter."""

import json
import os
from functools import partial
from pathlib import Path

from tunesmith.cli.client import Client
from tunesmith.cli.results.download import Download, fetch, safe_part, safe_target
from tunesmith.cli.results.model_files import fetch_model_files
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.models.hub import is_placeholder

BASE = "base"
_CONFIG, _CARD = "adapter_config.json", "README.md"


def pull_artifacts(client: Client, job_id: str, *, folder: Path, kind: str | None = None) -> list[Path]:
    """Write every file of the job's artifacts to `folder/KIND/NAME`.

    Raises:
        NotFound: the job has no such result.
        UnsafeName: a name would leave the folder; nothing has been written then.
        DamagedDownload: a file's hash is not the one the service recorded.
    """
    artifacts = [artifact for artifact in client.artifacts(job_id) if kind in (None, artifact.kind)]
    if not artifacts:
        what = f"a result of kind {kind}" if kind else "results"
        raise NotFound(f"{job_id} has no {what} yet.", hint=f"see how far it is: tunesmith get {job_id}")
    return fetch(
        [
            Download(
                file=file,
                target=safe_target(folder / safe_part(artifact.kind), file.name),
                open=partial(client.artifact_file, artifact.id, file.name),
            )
            for artifact in artifacts
            for file in (recorded(FileRef, file) for file in artifact.files)
        ]
    )


def pull_base(client: Client, job: JobObject, *, folder: Path) -> Path:
    """Write the model that the job's result stands on to `folder/base` and return that folder.

    Raises:
        NotFound: the job made no model, or only the shape of the base is registered.
        UnsafeName, DamagedDownload: as for artifacts.
    """
    if job.fine_tuned_model is None:
        raise NotFound(f"{job.id} has made no model.", hint=f"see how it ended: tunesmith get {job.id}")
    name = client.model(job.fine_tuned_model).tunesmith.base_model
    target = folder / BASE
    if not name or not fetch_model_files(client, name, folder=target):
        raise NotFound(f"The service has no weights of {name}.", hint="name a folder of yours with --base")
    return target


def name_base(adapter: Path, base: Path) -> None:
    """Write into a pulled adapter where its base lies, so that PEFT loads both by the adapter's folder alone."""
    path, card = adapter / _CONFIG, adapter / _CARD
    config = json.loads(path.read_text(encoding="utf-8"))
    named, there = config["base_model_name_or_path"], str(base.resolve())
    config.update(base_model_name_or_path=there, revision=None)
    _replace(path, json.dumps(config, indent=2, sort_keys=True))
    if is_placeholder(named) and card.is_file():
        _replace(card, card.read_text(encoding="utf-8").replace(named, there))


def lacks_base(folder: Path) -> bool:
    """Whether an adapter was pulled there whose base is neither on the hub nor named yet."""
    path = folder / ArtifactKind.ADAPTER / _CONFIG
    return path.is_file() and is_placeholder(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
