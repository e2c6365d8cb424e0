"""A job's results: what there is, and the bytes."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from tunesmith.service.artifacts import store
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.tables import Artifact
from tunesmith.service.jobs import store as jobs
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.dependencies import BlobsDep, DbSession
from tunesmith.service.web.parameters import JobId, Range
from tunesmith.service.web.streams import DOWNLOAD, send_blob
from tunesmith.tuning.api.artifacts import ArtifactList, ArtifactObject

router = APIRouter(prefix="/v1", tags=["artifacts"])


@router.get("/fine_tuning/jobs/{job_id}/artifacts")
async def list_artifacts(job_id: JobId, caller: MemberKey, session: DbSession) -> ArtifactList:
    """The job's artifacts with the hash of every file."""
    job = await jobs.find(session, job_id, project=caller.project)
    return ArtifactList(data=[_artifact_object(artifact) for artifact in await store.find_of_job(session, job)])


@router.get("/artifacts/{artifact_id}/files/{name:path}", response_class=Response, responses=DOWNLOAD)
async def artifact_file(
    artifact_id: Annotated[str, Path(description="The artifact's id.")],
    name: Annotated[str, Path(description="The file's name inside the artifact.")],
    *,
    caller: MemberKey,
    session: DbSession,
    blobs: BlobsDep,
    byte_range: Range = None,
) -> Response:
    """The bytes of one file. Range works."""
    file = await store.find_file(session, artifact_id, name, project=caller.project)
    return await send_blob(
        blobs,
        file.sha256,
        length_bytes=file.bytes,
        range_header=byte_range,
        filename=name.rsplit("/", maxsplit=1)[-1],
    )


@router.get(
    "/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/files/{name:path}",
    response_class=Response,
    responses=DOWNLOAD,
)
async def checkpoint_file(
    job_id: JobId,
    checkpoint_id: Annotated[str, Path(description="The checkpoint's id.")],
    name: Annotated[str, Path(description="The file's name, as `tunesmith.files` lists it.")],
    *,
    caller: MemberKey,
    session: DbSession,
    blobs: BlobsDep,
    byte_range: Range = None,
) -> Response:
    """The bytes of one file of a checkpoint's weights. Range works."""
    job = await jobs.find(session, job_id, project=caller.project)
    file = await checkpoints.find_weights(session, job.id, checkpoint_id, name)
    return await send_blob(blobs, file.sha256, length_bytes=file.bytes, range_header=byte_range, filename=name)


def _artifact_object(artifact: Artifact) -> ArtifactObject:
    return ArtifactObject(
        id=artifact.id,
        created_at=int(artifact.created_at.timestamp()),
        job_id=artifact.job_id,
        attempt_id=artifact.attempt_id,
        kind=artifact.kind,
        files=artifact.files,
        metadata=artifact.details,
    )
