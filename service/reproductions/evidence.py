"""What a finished job left to be judged by: its result and the manifest inside it."""

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.tables import Job
from tunesmith.service.jobs import store as jobs
from tunesmith.tuning.codes import RESULT_KINDS, ErrorCode
from tunesmith.tuning.errors import CannotReproduce
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.state import FINAL_STATES, JobState

Manifest = dict[str, Any]

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST_BYTES = 16 * 1024**2


async def succeeded(session: AsyncSession, job_id: str, *, project: str) -> Job:
    """The job, which has a result.

    Raises:
        NotFound: no such job here.
        CannotReproduce: it has not finished, or ended without a result.
    """
    job = await jobs.find(session, job_id, project=project)
    if job.state == JobState.SUCCEEDED:
        return job
    if job.state in FINAL_STATES:
        message = f"{job.id} is {job.state}: it left no result to compare with."
        raise CannotReproduce(
            message, code=ErrorCode.JOB_HAS_NO_RESULT, param="id", hint="Choose a job that has succeeded."
        )
    message = f"{job.id} is {job.state}: there is nothing to compare with before it has succeeded."
    raise CannotReproduce(message, code=ErrorCode.JOB_NOT_FINISHED, param="id", hint="Ask again when it has succeeded.")


async def manifest_file(session: AsyncSession, job: Job) -> FileRef:
    """The manifest in the store.

    Raises:
        CannotReproduce: the job was made before results had one.
    """
    for artifact in await artifacts.find_of_job(session, job):
        for file in artifact.files if artifact.kind in RESULT_KINDS else []:
            if file["name"] == _MANIFEST:
                return FileRef.model_validate(file)
    raise _no_manifest(f"The result of {job.id} has no {_MANIFEST}.")


async def read_manifest(blobs: BlobStore, file: FileRef) -> Manifest:
    """The manifest's content. No transaction should be open while bytes move.

    Raises:
        CannotReproduce: the store has lost it, or it cannot be read.
    """
    if file.bytes > _LARGEST_MANIFEST_BYTES:
        raise _no_manifest(f"{_MANIFEST} is too large to be one.")
    try:
        content = b"".join([chunk async for chunk in blobs.read(file.sha256, start=0, end=file.bytes)])
        manifest = json.loads(content)
    except (FileNotFoundError, ValueError):
        raise _no_manifest(f"{_MANIFEST} cannot be read from the store.") from None
    if not isinstance(manifest, dict):
        raise _no_manifest(f"{_MANIFEST} is not an object.")
    return manifest


def _no_manifest(message: str) -> CannotReproduce:
    hint = "Without it nothing says what the run was made of; train the job again, then reproduce that one."
    return CannotReproduce(message, code=ErrorCode.MANIFEST_MISSING, param="id", hint=hint)
