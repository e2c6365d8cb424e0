"""Which bytes of the object store a worker may read: what its job needs and what the job has left so far."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.tables import Job
from tunesmith.service.evaluations import models as evaluated
from tunesmith.service.files import store as files
from tunesmith.service.models import store as models
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.words import JobKind


async def find_readable(session: AsyncSession, job: Job, sha256: str) -> FileRef:
    """The file with this hash among those of the job's model, data, checkpoints and results.

    Raises:
        NotFound: none of them has it, whatever else is in the store.
    """
    async for file in _readable(session, job):
        if file.sha256 == sha256:
            return file
    raise NotFound(f"No blob {sha256} for this job.", code=ErrorCode.BLOB_NOT_FOUND, param="sha256")


async def _readable(session: AsyncSession, job: Job) -> AsyncIterator[FileRef]:
    """Each query is made only if the ones before it did not find the file."""
    if job.kind == JobKind.EVALUATION:
        for file in evaluated.files_of(await evaluated.find_all(session, job)):
            yield file
    for file in await models.find_files(session, job.spec["model"]):
        yield file
    for file in await checkpoints.find_files(session, job.id):
        yield file
    for file in await artifacts.find_files(session, job.id):
        yield file
    for file_id in (job.training_file, job.validation_file):
        if file_id is not None:
            yield await files.file_ref(session, file_id)
