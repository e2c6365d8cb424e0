"""Queries about evaluations, their rows and verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import EvaluatedRow, File, GateVerdict, Job, Model
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.gate.verdict import Verdict
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import JobKind

UsedFor = Literal["training", "validation"]
_MOST_ANCESTORS = 32  # one model made of another, made of another


async def find(session: AsyncSession, evaluation_id: str, *, project: str, param: str = "id") -> Job:
    """The evaluation of this project, which `param` of the request names.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    query = select(Job).where(Job.id == evaluation_id, Job.project == project, Job.kind == JobKind.EVALUATION)
    job = (await session.execute(query)).scalar_one_or_none()
    if job is None:
        raise NotFound(f"No such evaluation: {evaluation_id}", code=ErrorCode.EVALUATION_NOT_FOUND, param=param)
    return job


async def find_many(session: AsyncSession, *, project: str, after: str | None, limit: int) -> list[Job]:
    """Up to `limit` evaluations behind `after`, the newest first."""
    query = select(Job).where(Job.project == project, Job.kind == JobKind.EVALUATION)
    if after is not None:
        await find(session, after, project=project, param="after")
        query = query.where(Job.id < after)
    return list((await session.execute(query.order_by(Job.id.desc()).limit(limit))).scalars())


async def find_by_ids(session: AsyncSession, evaluation_ids: Sequence[str]) -> Sequence[Job]:
    """Those of them that there are, of whichever project."""
    query = select(Job).where(Job.id.in_(evaluation_ids), Job.kind == JobKind.EVALUATION)
    return (await session.execute(query)).scalars().all()


async def find_seen_files(session: AsyncSession, job_id: str | None) -> list[tuple[UsedFor, File]]:
    """What the job that made a model, and those that made what it began with, were given; the newest first."""
    found: list[tuple[UsedFor, File]] = []
    for _ in range(_MOST_ANCESTORS):
        job = None if job_id is None else await session.get(Job, job_id)
        if job is None:
            break
        found.append(("training", await session.get_one(File, job.training_file)))
        if job.validation_file is not None:
            found.append(("validation", await session.get_one(File, job.validation_file)))
        start = await session.get(Model, str(job.spec["model"]))
        job_id = None if start is None else start.job_id
    return found


async def add_rows(session: AsyncSession, job: Job, rows: Iterable[Mapping[str, Any]]) -> None:
    """Store `line`, `place` and `data` of each row."""
    values = [{"job_id": job.id, **row} for row in rows]
    if values:
        await session.execute(insert(EvaluatedRow), values)


async def find_rows(
    session: AsyncSession, job: Job, *, order: Literal["line", "worst"], after: int | None, limit: int | None
) -> list[Json]:
    """Rows behind the one of line `after`, in the order of the file or those that speak most against the model first.

    Raises:
        InvalidRequest: `after` is no row of it.
    """
    by = EvaluatedRow.line if order == "line" else EvaluatedRow.place
    query = select(EvaluatedRow.data).where(EvaluatedRow.job_id == job.id).order_by(by)
    if after is not None:
        named = select(by).where(EvaluatedRow.job_id == job.id, EvaluatedRow.line == after)
        place = (await session.execute(named)).scalar_one_or_none()
        if place is None:
            raise InvalidRequest(f"No row {after} in this evaluation.", code=ErrorCode.INVALID_VALUE, param="after")
        query = query.where(by > place)
    return list((await session.execute(query if limit is None else query.limit(limit))).scalars())


async def add_verdict(
    session: AsyncSession, *, project: str, candidate: str, champion: str | None, verdict: Verdict
) -> GateVerdict:
    """Keep what the gate said."""
    row = GateVerdict(
        id=new_id("verdict"),
        project=project,
        candidate=candidate,
        champion=champion,
        word=verdict.word,
        verdict=verdict.model_dump(mode="json"),
    )
    session.add(row)
    await session.flush()
    return row
