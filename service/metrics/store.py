"""Queries about metric points and sample answers."""

from typing import Any, cast

from sqlalchemy import Table, Text, bindparam, func, select
from sqlalchemy import cast as cast_in_sql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tunesmith.service.database.tables import Attempt, Event, MetricChunk
from tunesmith.service.metrics.points import Point, merge
from tunesmith.tuning.messages import MetricChunk as Shipped

Reader = AsyncConnection | AsyncSession


async def find_points(session: Reader, job_id: str, *, after_step: int = -1) -> list[Point]:
    """The job's points behind `after_step`, one per step."""
    rows = await session.execute(_CHUNKS, {"of_job": job_id, "after_step": after_step})
    points = merge((epoch, point) for epoch, chunk in rows for point in chunk)
    return [point for point in points if point["step"] > after_step]


async def find_chunks(session: Reader, job_id: str, *, after_step: int) -> list[tuple[int, str]]:
    """Chunks with points behind `after_step` and perhaps others, in order: the attempt's number, and JSON."""
    rows = await session.execute(_CHUNKS_AS_TEXT, {"of_job": job_id, "after_step": after_step})
    return [(epoch, text) for epoch, text in rows]


async def find_sample_reports(session: Reader, job_id: str) -> list[dict[str, Any]]:
    """The data of every event of the job that holds sample answers, oldest first."""
    return [data for data in (await session.execute(_SAMPLES, {"of_job": job_id})).scalars() if data is not None]


async def last_step(session: AsyncSession, attempt_id: str) -> int | None:
    """The highest step that the attempt shipped a point of."""
    query = select(func.max(MetricChunk.last_step)).where(MetricChunk.attempt_id == attempt_id)
    return (await session.execute(query)).scalar_one()


async def add_chunk(session: AsyncSession, attempt: Attempt, shipped: Shipped, points: list[Point]) -> list[Point]:
    """Store a chunk and return the points that are new. A replay adds nothing.

    A worker that never heard our answer may read on and send a longer chunk from the same offset: the longer one
    replaces the shorter, and only its tail is new.
    """
    last_step = max((int(point["step"]) for point in points), default=-1)
    values = {"end_offset": shipped.end_offset, "last_step": last_step, "points": points}
    place = {"attempt_id": attempt.id, "start_offset": shipped.start_offset}
    inserted = await session.execute(_ADD, {**place, "job_id": attempt.job_id, "epoch": attempt.epoch, **values})
    if inserted.scalar_one_or_none() is not None:
        return points
    stored = await session.get_one(MetricChunk, (attempt.id, shipped.start_offset))
    if shipped.end_offset <= stored.end_offset:
        return []
    fresh = points[len(stored.points) :]
    stored.end_offset, stored.last_step, stored.points = shipped.end_offset, last_step, points
    return fresh


_CHUNKS = (
    select(MetricChunk.epoch, MetricChunk.points)
    .where(MetricChunk.job_id == bindparam("of_job"), MetricChunk.last_step > bindparam("after_step"))
    .order_by(MetricChunk.epoch, MetricChunk.start_offset)
)
_CHUNKS_AS_TEXT = _CHUNKS.with_only_columns(MetricChunk.epoch, cast_in_sql(MetricChunk.points, Text))
_SAMPLES = (
    select(Event.data).where(Event.job_id == bindparam("of_job"), Event.data.has_key("samples")).order_by(Event.seq)
)
_ADD = insert(cast(Table, MetricChunk.__table__)).on_conflict_do_nothing().returning(MetricChunk.start_offset)
