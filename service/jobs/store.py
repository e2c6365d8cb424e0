"""Queries about jobs and what hangs on them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ARRAY, BigInteger, Row, Text, bindparam, column, func, insert, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tunesmith.service.database.tables import Attempt, Event, Job
from tunesmith.service.queue import store as queue
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import JobKind

Reader = AsyncConnection | AsyncSession
NewestRow = Row[str, int, str, str, datetime, str | None]
JobRow = Job | Row[Any] | Row[str, int] | NewestRow  # what reads need has the same names in both
_BEHIND_ALL = "g"  # behind every id, in whatever order of letters the database keeps
_BEHIND_ALL_EVENTS = 2**62
_LONGEST_SEQ = 18  # digits


async def find(session: AsyncSession, job_id: str, *, project: str, lock: bool = False) -> Job:
    """The job of this project, locked against every other change if asked.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    query = select(Job).where(Job.id == job_id, Job.project == project)
    if lock:
        query = query.with_for_update(key_share=True)
    job = (await session.execute(query)).scalar_one_or_none()
    if job is None:
        raise no_such_job(job_id)
    return job


async def lock(session: AsyncSession, job_id: str) -> Job:
    """The job, locked; it exists because something of its own named it."""
    query = (
        select(Job).where(Job.id == job_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one()


async def find_many(session: AsyncSession, job_ids: Sequence[str], *, project: str) -> dict[str, Job]:
    """Those of the jobs that exist in this project, by id."""
    query = select(Job).where(Job.id.in_(job_ids), Job.project == project)
    return {job.id: job for job in (await session.execute(query)).scalars()}


async def find_row(connection: AsyncConnection, job_id: str, *, project: str) -> Row[Any]:
    """The same without the means to change it: every column of the job of this project.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    row = (await connection.execute(_ROW, {"job_id": job_id, "of_project": project})).one_or_none()
    if row is None:
        raise no_such_job(job_id)
    return row


async def find_rows(connection: AsyncConnection, job_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """The same of each of these jobs that exists."""
    return (await connection.execute(_ROWS, {"ids": list(job_ids)})).all()


async def find_newest(
    connection: AsyncConnection,
    *,
    project: str,
    after: str | None,
    limit: int,
    labels: dict[str, str] | None,
    unlabelled: bool,
) -> Sequence[NewestRow]:
    """`id`, `version`, `state`, `project` and `not_before` of up to `limit` jobs, newest first, older than `after`.

    `labels` must all match, `unlabelled` means none at all.

    Raises:
        NotFound: there is no job `after`.
    """
    if after is not None:
        await find_head(connection, after, project=project, param="after")
    query = _NEWEST_OF[bool(labels), unlabelled]
    wanted = {"of_project": project, "before": after or _BEHIND_ALL, "most": limit}
    if labels:
        wanted["labels"] = labels
    return (await connection.execute(query, wanted)).all()


async def find_head(connection: AsyncConnection, job_id: str, *, project: str, param: str = "id") -> Row[str, int]:
    """`id` and `event_seq` of the job of this project, which `param` of the request names.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    row = (await connection.execute(_HEAD, {"job_id": job_id, "of_project": project})).one_or_none()
    if row is None:
        raise no_such_job(job_id, param=param)
    return row


def no_such_job(job_id: str, *, param: str = "id") -> NotFound:
    """The error for a job that does not exist, or not for this caller; `param` of the request names it."""
    return NotFound(f"Could not find fine tune: {job_id}", code=ErrorCode.FINE_TUNING_JOB_NOT_FOUND, param=param)


async def lock_waiting(session: AsyncSession, job_id: str) -> Job | None:
    """The job, locked, if it still waits and nobody else is taking it."""
    query = (
        select(Job)
        .where(Job.id == job_id, Job.state == JobState.QUEUED, Job.not_before <= func.now())
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def find_overdue(session: AsyncSession, *, limit: int) -> list[str]:
    """Ids of jobs that wait or run beyond their deadline and were not told to stop, by deadline and then by age."""
    query = (
        select(Job.id)
        .where(Job.deadline_at <= func.now(), Job.finished_at.is_(None), Job.cancel_requested_at.is_(None))
        .where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .order_by(Job.deadline_at, Job.id)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def find_copy(session: AsyncSession, *, api_key_id: str, request_sha256: str, within: timedelta) -> Job | None:
    """The newest job that the same request of the same key made a short time ago."""
    query = (
        select(Job)
        .where(
            Job.api_key_id == api_key_id,
            Job.request_sha256 == request_sha256,
            Job.created_at > func.now() - within,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def find_line(reader: Reader) -> list[str]:
    """The ids of all waiting jobs in the order of the line."""
    # As one text: thousands of rows, or an array, take the client longer than the database.
    line: str = (await reader.execute(_LINE)).scalar_one()
    return line.split()


async def find_versions(
    connection: AsyncConnection, job_ids: Sequence[str]
) -> Sequence[Row[str, str, int, int, str, datetime, str | None]]:
    """`id`, `project`, `version`, `event_seq`, `state`, `not_before` and `question_sha256` of each job that exists."""
    return (await connection.execute(_VERSIONS, {"ids": list(job_ids)})).all()


async def find_events(
    connection: AsyncConnection, job: JobRow, *, after: str | None, order: Literal["asc", "desc"], limit: int
) -> Sequence[Row[Any]]:
    """Up to `limit` events behind `after`.

    Raises:
        InvalidRequest: `after` is not an event of this job.
    """
    start = (
        (0 if order == "asc" else _BEHIND_ALL_EVENTS)
        if after is None
        else seq_of(after, job.id, last_seq=job.event_seq)
    )
    wanted = {"job_id": job.id, "start": start, "most": limit}
    return (await connection.execute(_EVENTS[order], wanted)).all()


async def find_events_behind(
    connection: AsyncConnection, places: Sequence[tuple[str, int]], *, limit: int
) -> Mapping[tuple[str, int], list[Row[Any]]]:
    """Of each (job, seq) up to `limit` events behind it, oldest first; those without any are left out."""
    ids, seqs = zip(*places, strict=True)
    rows = await connection.execute(_EVENTS_BEHIND, {"ids": list(ids), "seqs": list(seqs), "most": limit})
    found: dict[tuple[str, int], list[Row[Any]]] = {}
    for row in rows:
        found.setdefault((row.job_id, row.after_seq), []).append(row)
    return found


async def add(session: AsyncSession, jobs: Sequence[Job]) -> list[Job]:
    """Store new jobs, none of which is in the session, in one statement; returns them as they are stored."""
    rows = [
        _WITH_DEFAULT | {one.name: value for one in _BROUGHT if (value := getattr(job, one.name)) is not None}
        for job in jobs
    ]
    stored = {job.id: job for job in (await session.execute(_ADD, {"rows": rows})).scalars()}
    return [stored[job.id] for job in jobs]


async def add_events(session: AsyncSession, events: Sequence[Event]) -> None:
    """Store them in one statement, which for the many of a group of new jobs is quicker than a row at a time."""
    rows = [{name: getattr(event, name) for name in _EVENT_COLUMNS} for event in events]
    await session.execute(_ADD_EVENTS, {"rows": rows})


async def find_tracked_runs(connection: AsyncConnection, job: JobRow) -> list[Json]:
    """What was told of trackers that show the job's runs, oldest first, each `tracker` and `url` once."""
    told = (await connection.execute(_TRACKED, {"job_id": job.id})).scalars()
    return list({(data["tracker"], data["url"]): data for data in told if data}.values())


def seq_of(event_id: str, job_id: str, *, last_seq: int, param: str = "after") -> int:
    """The number of an event within its job, of which the last is `last_seq`; `param` is where the id was given.

    Raises:
        InvalidRequest: it is not an event of this job.
    """
    head, _, tail = event_id.rpartition("-")
    if (
        head == f"ftevent-{job_id.removeprefix('ftjob-')}"
        and tail.isascii()
        and tail.isdecimal()
        and len(tail) <= _LONGEST_SEQ
        and 0 < int(tail) <= last_seq
    ):
        return int(tail)
    raise InvalidRequest(
        f"No event {event_id!r:.120} in this job.",
        code=ErrorCode.EVENT_NOT_FOUND,
        param=param,
        hint="Leave it out to begin at the beginning, or give the id of an event of this job.",
    )


async def find_attempts(session: AsyncSession, job: Job) -> list[Attempt]:
    """Every attempt, oldest first."""
    return list(
        (await session.execute(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.epoch))).scalars()
    )


# Built once: building a query takes longer than asking it.
_jobs = Job.__table__
_ROW = select(_jobs).where(Job.id == bindparam("job_id"), Job.project == bindparam("of_project"))
_ROWS = select(_jobs).where(Job.id == func.any(bindparam("ids", type_=ARRAY(Text))))
_HEAD = select(Job.id, Job.event_seq).where(Job.id == bindparam("job_id"), Job.project == bindparam("of_project"))
_VERSIONS = select(
    Job.id, Job.project, Job.version, Job.event_seq, Job.state, Job.not_before, Job.question_sha256
).where(Job.id == func.any(bindparam("ids", type_=ARRAY(Text))))
_places = queue.places()
_LINE = select(func.array_to_string(func.array(select(_places.c.id).order_by(_places.c.place).scalar_subquery()), " "))
_NEWEST = (
    select(_jobs.c.id, _jobs.c.version, _jobs.c.state, _jobs.c.project, _jobs.c.not_before, _jobs.c.question_sha256)
    .where(Job.project == bindparam("of_project"), Job.id < bindparam("before"), Job.kind == JobKind.TRAINING)
    .order_by(Job.id.desc())
    .limit(bindparam("most", type_=BigInteger))
)
_LABELLED = Job.labels.contains(bindparam("labels", type_=JSONB))
_NEWEST_OF = {  # by whether labels must match and whether there must be none
    (False, False): _NEWEST,
    (True, False): _NEWEST.where(_LABELLED),
    (False, True): _NEWEST.where(Job.labels.is_(None)),
    (True, True): _NEWEST.where(_LABELLED, Job.labels.is_(None)),
}
_events = Event.__table__
_OF_JOB = select(_events).where(Event.job_id == bindparam("job_id")).limit(bindparam("most", type_=BigInteger))
_EVENTS = {
    "asc": _OF_JOB.where(Event.seq > bindparam("start")).order_by(Event.seq),
    "desc": _OF_JOB.where(Event.seq < bindparam("start")).order_by(Event.seq.desc()),
}
_TRACKED = (
    select(Event.data)
    .where(Event.job_id == bindparam("job_id"), text("data ? 'tracker'"), text("data ? 'url'"))
    .order_by(Event.seq)
)
# What a new job may bring along; the rest the database makes.
_WITH_DEFAULT = {"kind": JobKind.TRAINING, "event_seq": 0, "priority": 0}
_BROUGHT = [one for one in _jobs.columns if one.server_default is None or one.name in _WITH_DEFAULT]
_new = (
    func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
    .table_valued(*(column(one.name, one.type) for one in _BROUGHT), name="new")
    .render_derived(with_types=True)
)
_ADD = select(Job).from_statement(insert(Job).from_select([one.name for one in _BROUGHT], select(_new)).returning(Job))
_EVENT_COLUMNS = ("job_id", "seq", "type", "level", "message", "data")
_ADD_EVENTS = text(
    "INSERT INTO events (job_id, seq, type, level, message, data) SELECT * FROM jsonb_to_recordset(:rows)"
    " AS row (job_id text, seq bigint, type text, level text, message text, data jsonb)"
).bindparams(bindparam("rows", type_=JSONB))
_EVENTS_BEHIND = text(
    """
    SELECT found.*, place.after_seq
    FROM unnest(CAST(:ids AS text[]), CAST(:seqs AS bigint[])) AS place (job_id, after_seq)
    CROSS JOIN LATERAL (
        SELECT * FROM events WHERE events.job_id = place.job_id AND seq > place.after_seq ORDER BY seq LIMIT :most
    ) AS found
    ORDER BY found.job_id, place.after_seq, found.seq
    """
)
