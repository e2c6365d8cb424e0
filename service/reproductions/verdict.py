"""The verdict on a job that repeats another, from what both left in the store and the database."""

from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.metrics import store as metrics
from tunesmith.service.reproductions.evidence import manifest_file, read_manifest, succeeded
from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import CannotReproduce
from tunesmith.tuning.planner.reproduction import compare


async def compare_runs(database: Database, blobs: BlobStore, job_id: str, *, project: str) -> ReproductionObject:
    """The comparison as the API shows it.

    Raises:
        NotFound: no such job here.
        CannotReproduce: it repeats no other, or has no result yet.
    """
    async with database.transaction() as session:
        second = await succeeded(session, job_id, project=project)
        if second.reproduces is None:
            message = f"{second.id} does not repeat another job."
            hint = f"Repeat it first: POST /v1/fine_tuning/jobs/{second.id}/reproduce."
            raise CannotReproduce(message, code=ErrorCode.NOT_A_REPRODUCTION, param="id", hint=hint)
        first = await succeeded(session, second.reproduces, project=project)
        files = [await manifest_file(session, job) for job in (first, second)]
        points = [await metrics.find_points(session, job.id) for job in (first, second)]
    mine, other = [await read_manifest(blobs, file) for file in files]
    found = compare(
        {**mine, "attempts": first.epoch},
        {**other, "attempts": second.epoch},
        first_points=points[0],
        second_points=points[1],
    )
    return ReproductionObject(job_id=second.id, reproduces=first.id, **dict(found))
