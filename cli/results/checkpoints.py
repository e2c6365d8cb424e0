"""A checkpoint's weights in a folder, by the name that it is listed under."""

import re
from functools import partial
from pathlib import Path

from tunesmith.cli.client import Client
from tunesmith.cli.results.download import Download, fetch, safe_target
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.api.history import CheckpointObject
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef

_NAME = re.compile(r"ft:.+:(?P<job>[^:]+):ckpt-step-\d+")


def job_of_checkpoint(name: str) -> str | None:
    """The end of the id of the checkpoint's job; None for a name that is no checkpoint's."""
    found = _NAME.fullmatch(name)
    return found["job"] if found else None


def pull_checkpoint(client: Client, job_id: str, name: str, *, folder: Path) -> list[Path]:
    """Write the weights to `folder/adapter` or `folder/model`.

    Raises:
        NotFound: the job has no such checkpoint, or it has let go of its files.
        UnsafeName, DamagedDownload: as for artifacts.
    """
    checkpoint = _find(client, job_id, name)
    files = [recorded(FileRef, file) for file in checkpoint.tunesmith.files]
    if not files:
        message = f"{name} has no weights that could be loaded: they are let go a day after the job, or shared out."
        raise NotFound(message, code=ErrorCode.CHECKPOINT_NOT_FOUND, hint=f"take the result: artifacts pull {job_id}")
    is_adapter = any(file.name == "adapter_config.json" for file in files)
    target = folder / (ArtifactKind.ADAPTER if is_adapter else ArtifactKind.MODEL)
    return fetch(
        [
            Download(
                file=file,
                target=safe_target(target, file.name),
                open=partial(client.checkpoint_file, job_id, checkpoint.id, file.name),
            )
            for file in files
        ]
    )


def _find(client: Client, job_id: str, name: str) -> CheckpointObject:
    for checkpoint in client.checkpoints(job_id):
        if checkpoint.fine_tuned_model_checkpoint == name:
            return checkpoint
    message = f"{job_id} has no checkpoint {name}."
    raise NotFound(message, code=ErrorCode.CHECKPOINT_NOT_FOUND, hint=f"`tunesmith get {job_id}` shows the job")
