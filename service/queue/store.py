"""Queries about the line of waiting jobs."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Float,
    Row,
    Select,
    SQLColumnExpression,
    Subquery,
    Text,
    all_,
    and_,
    bindparam,
    cast,
    extract,
    func,
    lateral,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.state import JobState

_SECONDS_PER_TURN = 1800.0  # half an hour of waiting outweighs one job that the project runs, or has ahead in its line
_MOST_LEFT_OUT = 500  # questions that a query compares each job with
_LEAST_REMAINING_SECONDS = 5.0  # of a run that is later than expected: it still has to hand over


@dataclass(frozen=True)
class Waiting:
    """A job that may start now, as much of it as a walk needs. `question_sha256` is the same for jobs that are alike.

    `aged_turns` is what waiting and priority take off its turn, `reason` why it is known to wait.
    """

    job_id: str
    project: str
    question_sha256: str
    model: str
    line_at: datetime
    aged_turns: float
    reason: str | None


@dataclass(frozen=True)
class Near:
    """A job close behind another in its project's line. `base_digest` is of what it loads, under an adapter too."""

    waiting: Waiting
    priority: int
    base_digest: str | None
    ready_for: timedelta  # how long it could have started


@dataclass(frozen=True)
class Turn:
    """What the line is ordered by, and the place in it, from 1."""

    turn: float
    place: int


@dataclass(frozen=True)
class Running:
    """An open attempt."""

    worker_class: str
    project: str
    job_id: str
    remaining_seconds: float  # as expected


@dataclass(frozen=True)
class Lane:
    """The line of one project, as far as it was read, and how many jobs the project runs."""

    project: str
    running: int
    waiting: list[Waiting]


async def find_lanes(session: AsyncSession, *, each: int) -> list[Lane]:
    """The first `each` jobs of every project that has any. The cost does not grow with the length of a line."""
    lanes: dict[str, Lane] = {}
    for row in await session.execute(_LANES, {"each": each}):
        lane = lanes.setdefault(row.project, Lane(row.project, row.running, []))
        lane.waiting.append(_waiting(row))
    return list(lanes.values())


async def find_behind(session: AsyncSession, last: Waiting, *, without: Collection[str], limit: int) -> list[Waiting]:
    """The next jobs of the same project's line, `without` those that ask one of these questions."""
    query = (
        select(*_columns(Job))
        .where(
            Job.project == last.project,
            *_may_start(Job),
            tuple_(Job.line_at, Job.id) > tuple_(last.line_at, last.job_id),
            _question(Job) != all_(cast(list(without)[:_MOST_LEFT_OUT], ARRAY(Text))),
        )
        .order_by(Job.line_at, Job.id)
        .limit(limit)
    )
    return [_waiting(row) for row in await session.execute(query)]


async def find_near(session: AsyncSession, first: Waiting, *, without: Collection[str], limit: int) -> list[Near]:
    """The job and the next of its project's line, together `limit`, `without` those that ask one of these questions."""
    line = (
        select(*_columns(Job), Job.priority, _ready_for(Job).label("ready_for"))
        .where(
            Job.project == first.project,
            *_may_start(Job),
            tuple_(Job.line_at, Job.id) >= tuple_(first.line_at, first.job_id),
            _question(Job) != all_(cast(list(without)[:_MOST_LEFT_OUT], ARRAY(Text))),
        )
        .order_by(Job.line_at, Job.id)
        .limit(limit)
        .subquery()
    )
    base = aliased(Model)
    under = and_(Model.kind == ArtifactKind.ADAPTER, base.name == Model.base_model)
    query = (
        select(line, func.coalesce(base.digest, Model.digest).label("base_digest"))
        .outerjoin(Model, Model.name == line.c.model)
        .outerjoin(base, under)
        .order_by(line.c.line_at, line.c.id)
    )
    rows = await session.execute(query)
    return [Near(_waiting(row), row.priority, row.base_digest, row.ready_for) for row in rows]


async def find(session: AsyncSession, job_id: str) -> tuple[Job, Model] | None:
    """The job with its model, unless one of them is gone."""
    query = select(Job, Model).join(Model, Model.name == Job.spec["model"].astext).where(Job.id == job_id)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


def places() -> Subquery:
    """Every queued job with its project, its turn and its place in line, from 1."""
    running = (
        select(Job.project, func.count().label("jobs"))
        .where(Job.state == JobState.RUNNING)
        .group_by(Job.project)
        .subquery()
    )
    number = func.row_number().over(partition_by=Job.project, order_by=(Job.line_at, Job.id))
    turns = (
        select(Job.id, Job.project, Job.line_at)
        .add_columns((number + func.coalesce(running.c.jobs, 0) - _aged_turns(Job)).label("turn"))
        .outerjoin(running, running.c.project == Job.project)
        .where(Job.state == JobState.QUEUED)
        .subquery()
    )
    place = func.row_number().over(order_by=(turns.c.turn, turns.c.line_at, turns.c.id)).label("place")
    return select(turns, place).subquery()


async def turn_of(session: AsyncSession, job_id: str) -> Turn | None:
    """When a queued job's turn is; None when it is not queued."""
    line = places()
    row = (await session.execute(select(line.c.turn, line.c.place).where(line.c.id == job_id))).one_or_none()
    return None if row is None else Turn(row.turn, row.place)


async def turn_of_new(session: AsyncSession, *, project: str, priority: int) -> float:
    """The turn that a job of this project would have if it were queued now."""
    own = (Job.project == project, Job.state == JobState.QUEUED)
    ahead = select(func.count()).where(*own, _aged_turns(Job) >= priority)
    query = select(ahead.scalar_subquery() + _running_of(project) + 1 - priority)
    return float((await session.execute(query)).scalar_one())


async def find_ahead(session: AsyncSession, *, turn: float, limit: int) -> list[tuple[Job, Model]]:
    """The first waiting jobs whose turn comes before this one."""
    line = places()
    query = (
        select(Job, Model)
        .join(line, line.c.id == Job.id)
        .join(Model, Model.name == Job.spec["model"].astext)
        .where(line.c.turn < turn, Job.not_before <= func.now())
        .order_by(line.c.place)
        .limit(limit)
    )
    return [(job, model) for job, model in await session.execute(query)]


async def count_ahead(session: AsyncSession, *, turn: float, project: str) -> tuple[int, int]:
    """How many jobs of the project, and of others, have their turn before this one."""
    line = places()
    own = func.count().filter(line.c.project == project)
    row = (await session.execute(select(own, func.count()).where(line.c.turn < turn))).one()
    return row[0], row[1] - row[0]


async def find_running(session: AsyncSession) -> list[Running]:
    """Every open attempt, the oldest first."""
    return [
        Running(
            row.worker_class,
            row.project,
            row.job_id,
            _remaining_seconds(row.started_at, row.planned_seconds, row.estimated_finish_at, at=row.at),
        )
        for row in await session.execute(_RUNNING)
    ]


async def remaining_seconds(session: AsyncSession, worker_ids: list[str], *, at: datetime) -> dict[str, list[float]]:
    """By worker, in how many seconds each of its open attempts is expected to end."""
    query = (
        select(
            Attempt.worker_id, Attempt.started_at, Attempt.plan["time"]["seconds"].as_float(), Job.estimated_finish_at
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.worker_id.in_(worker_ids), Attempt.ended_at.is_(None))
    )
    found: dict[str, list[float]] = {}
    for worker_id, started_at, planned_seconds, estimated_finish_at in await session.execute(query):
        remaining = _remaining_seconds(started_at, planned_seconds, estimated_finish_at, at=at)
        found.setdefault(worker_id, []).append(remaining)
    return found


def _remaining_seconds(
    started_at: datetime, planned_seconds: float, estimated_finish_at: datetime | None, *, at: datetime
) -> float:
    if estimated_finish_at is not None and estimated_finish_at > started_at:
        remaining = (estimated_finish_at - at).total_seconds()
    else:  # it has not made a step yet
        remaining = planned_seconds - (at - started_at).total_seconds()
    return max(remaining, _LEAST_REMAINING_SECONDS)


def _waiting_projects() -> CTE:
    """Projects with waiting jobs, one step of an index each: a scan would read every waiting job."""
    first = select(Job.project).where(Job.state == JobState.QUEUED).order_by(Job.project).limit(1)
    found = select(first.scalar_subquery().label("project")).cte("waiting_projects", recursive=True)
    other = aliased(Job)
    following = (
        select(other.project)
        .where(other.state == JobState.QUEUED, other.project > found.c.project)
        .order_by(other.project)
        .limit(1)
        .scalar_subquery()
    )
    return found.union_all(select(following).where(found.c.project.is_not(None)))


def _lanes() -> Select[Any]:
    """The first `each` waiting jobs of every project."""
    projects = _waiting_projects()
    first = aliased(Job)
    line = lateral(
        select(*_columns(first))
        .where(first.project == projects.c.project, *_may_start(first))
        .order_by(first.line_at, first.id)
        .limit(bindparam("each", type_=BigInteger))
    )
    running = _running_of(projects.c.project).label("running")
    return select(running, line).select_from(projects).join(line, true()).order_by(line.c.line_at, line.c.id)


def _running_of(project: SQLColumnExpression[str] | str) -> ColumnElement[int]:
    running = aliased(Job)
    return select(func.count()).where(running.project == project, running.state == JobState.RUNNING).scalar_subquery()


def _columns(job: type[Job]) -> tuple[ColumnElement[Any], ...]:
    return (
        job.id.label("id"),
        job.project.label("project"),
        _question(job).label("question"),
        job.spec["model"].astext.label("model"),
        job.line_at.label("line_at"),
        _aged_turns(job).label("aged_turns"),
        job.waiting_reason.label("reason"),
    )


def _waiting(row: Row[Any]) -> Waiting:
    return Waiting(row.id, row.project, row.question, row.model, row.line_at, row.aged_turns, row.reason)


def _question(job: type[Job]) -> ColumnElement[str]:
    """A job of an earlier version has none and is a question of its own."""
    return func.coalesce(job.question_sha256, job.id)


def _aged_turns(job: type[Job]) -> ColumnElement[float]:
    return cast(extract("epoch", func.now() - job.line_at) / _SECONDS_PER_TURN, Float)


def _ready_for(job: type[Job]) -> ColumnElement[Any]:
    return func.now() - func.greatest(job.queued_at, job.not_before)


def _may_start(job: type[Job]) -> tuple[ColumnElement[bool], ...]:
    return job.state == JobState.QUEUED, job.not_before <= func.now()


# Built once: building it takes 15 milliseconds, and every claim asks it.
_LANES = _lanes()
_RUNNING = (
    select(
        Attempt.worker_class,
        Job.project,
        Attempt.job_id,
        Attempt.started_at,
        Attempt.plan["time"]["seconds"].as_float().label("planned_seconds"),
        Job.estimated_finish_at,
        func.now().label("at"),
    )
    .join(Job, Job.id == Attempt.job_id)
    .where(Attempt.ended_at.is_(None))
    .order_by(Attempt.started_at, Attempt.id)
)
