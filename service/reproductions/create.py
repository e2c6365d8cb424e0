"""Creating a job that repeats another: same bytes of data and base, same seed, same plan, all of it checked first."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Job, Model
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.files import store as files
from tunesmith.service.idempotency.reserve import reserve
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.priority import within_limits
from tunesmith.service.jobs.start import find_machines, record, start
from tunesmith.service.models import store as models
from tunesmith.service.planning.fit import PlanningQuery
from tunesmith.service.planning.refusals import question_sha256
from tunesmith.service.projects.limits import check_queued, check_stored
from tunesmith.service.reproductions.evidence import Manifest, manifest_file, read_manifest, succeeded
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.errors import CannotReproduce, DoesNotFit, InvalidRequest
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.hashes import sha256_of_text

LABEL = "reproduces"  # in the job's metadata, where the API's own clients can see and filter it


@dataclass(frozen=True)
class Repetition:
    """One request to repeat a job."""

    job_id: str
    caller: Caller
    idempotency_key: str | None
    max_attempts: int
    worker_silence: timedelta
    limits: ProjectLimits

    @property
    def sha256(self) -> str:
        """The same for the same request."""
        return sha256_of_text(f"reproduce {self.job_id}")


async def repeat(database: Database, blobs: BlobStore, repetition: Repetition) -> Job:
    """Record the job, linked to the first, or find the one that an earlier copy of the request made.

    The first job's manifest is read between two transactions: none is open while bytes move.

    Raises:
        NotFound: no such job here.
        CannotReproduce: with the field that is not as it was.
        LimitReached: the project has as many jobs in line as it may.
    """
    async with database.transaction() as session:
        first = await succeeded(session, repetition.job_id, project=repetition.caller.project)
        file = await manifest_file(session, first)
    manifest = await read_manifest(blobs, file)
    async with database.transaction() as session:
        return await _create(session, repetition, manifest=manifest)


async def _create(session: AsyncSession, repetition: Repetition, *, manifest: Manifest) -> Job:
    project = repetition.caller.project
    first = await succeeded(session, repetition.job_id, project=project)
    job_id = new_id("ftjob")
    if (key := repetition.idempotency_key) is not None:
        earlier_id = await reserve(session, key, project=project, request_sha256=repetition.sha256, job_id=job_id)
        if earlier_id is not None:
            return await jobs.find(session, earlier_id, project=project)
    await check_stored(session, project, limits=repetition.limits)
    model = await _same_model(session, first, manifest)
    training_file = await _same_file(session, first, "training_file", manifest=manifest)
    validation_file = await _same_file(session, first, "validation_file", manifest=manifest)
    wanted = PlanningQuery.of(
        spec=first.spec, dataset=first.dataset, config=model.config, corrections={}, pinned=_plan(first, manifest)
    )
    try:
        fit = await find_machines(session, wanted, silence=repetition.worker_silence)
    except DoesNotFit as error:
        hint = "Connect a worker like the first one, or train anew and let the planner choose."
        raise CannotReproduce(error.message, code=ErrorCode(error.code), param="plan", hint=hint) from error
    job = Job(
        id=job_id,
        project=project,
        api_key_id=repetition.caller.key_id,
        request_sha256=repetition.sha256,
        state=JobState.VALIDATING_FILES,
        event_seq=0,
        spec=first.spec,
        dataset=first.dataset,
        training_file=training_file,
        validation_file=validation_file,
        suffix=first.suffix,
        labels={LABEL: first.id},
        priority=within_limits(first.priority, role=repetition.caller.role),
        max_attempts=repetition.max_attempts,
        reproduces=first.id,
        question_sha256=question_sha256(first.spec, first.dataset, repeats=first.id),
        pinned_plan=first.plan,
    )
    repeats = events.new(job, f"Repeats {first.id} with its plan, data, base and seed", data={LABEL: first.id})
    (job,) = await record(session, start(job, model=model, fit=fit, at=await now(session), before=[repeats]))
    await check_queued(session, project, limits=repetition.limits)
    return job


def _plan(first: Job, manifest: Manifest) -> dict[str, object]:
    """The plan on record, which must be the one that the result says it was made by."""
    if first.plan is None or manifest.get("plan", {}).get("seed") != first.plan["seed"]:
        message = f"The manifest of {first.id} is not that of the plan on record."
        raise CannotReproduce(
            message, code=ErrorCode.PLAN_UNKNOWN, param="plan", hint="Train anew and reproduce that job."
        )
    return first.plan


async def _same_model(session: AsyncSession, first: Job, manifest: Manifest) -> Model:
    name = str(first.spec["model"])
    try:
        model = await models.find_ready(session, name, project=first.project)
    except InvalidRequest:
        message = f"The model {name!r} that {first.id} started from is gone."
        hint = "Register the same files under the same name with `tunesmith models add`."
        raise CannotReproduce(message, code=ErrorCode.BASE_MODEL_GONE, param="model", hint=hint) from None
    base = (
        model
        if model.base_model is None or model.kind == ArtifactKind.MODEL
        else await session.get(Model, model.base_model)
    )
    parts = [(base, manifest.get("base_model")), (model, manifest.get("continued_from"))]
    for part, recorded in parts:
        if part is not None and recorded is not None:
            _require_same_bytes(part, recorded)
    return model


def _require_same_bytes(model: Model, recorded: dict[str, str]) -> None:
    for file in model.files:
        if file["name"] in recorded and recorded[file["name"]] != file["sha256"]:
            message = (
                f"{file['name']} of {model.name!r} has sha256 {file['sha256']}; the first run read "
                f"{recorded[file['name']]}."
            )
            hint = "Register the files of the first run under that name again."
            raise CannotReproduce(message, code=ErrorCode.BASE_MODEL_CHANGED, param="model", hint=hint)


async def _same_file(session: AsyncSession, first: Job, param: str, *, manifest: Manifest) -> str | None:
    """A living file with the bytes of the first run: the same one, or another copy of them."""
    recorded = manifest.get("data", {}).get(param)
    file_id: str | None = getattr(first, param)
    if file_id is None:
        return None
    alive = await files.find_with_bytes(session, recorded, project=first.project) if recorded else []
    if alive:
        return file_id if file_id in alive else alive[0]
    message = f"No file of this project has the bytes that {first.id} read as its {param} (sha256 {recorded})."
    hint = f"Upload them again: {file_id} was deleted, has expired or holds something else."
    raise CannotReproduce(message, code=ErrorCode.FILE_GONE, param=param, hint=hint)
