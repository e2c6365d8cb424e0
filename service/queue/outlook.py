"""When a job would start on each class of live worker, given whose turn comes before its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.database.transactions import now
from tunesmith.service.planning import corrections, fleet
from tunesmith.service.planning.fit import PlanningQuery
from tunesmith.service.queue import store

_LINE_LOOKED_AT = 50  # jobs that are planned one by one, a few milliseconds for each class; the rest are like them


@dataclass(frozen=True)
class Ahead:
    """Jobs whose turn comes first: of the same project and of others."""

    own: int
    others: int


async def outlook(
    session: AsyncSession, wanted: PlanningQuery, *, turn: float, project: str, live: Sequence[WorkerNode]
) -> tuple[list[fleet.Answer], Ahead]:
    """What each class would do with the job, and how many jobs are ahead of it."""
    remaining = await store.remaining_seconds(session, [worker.id for worker in live], at=await now(session))
    line = await store.find_ahead(session, turn=turn, limit=_LINE_LOOKED_AT)
    ahead = Ahead(*await store.count_ahead(session, turn=turn, project=project))
    learned = await corrections.measured_corrections(session) if line else corrections.NONE

    def answers() -> list[fleet.Answer]:
        queries = [learned.query_about(job, model) for job, model in line]
        groups = fleet.classes_of(live, remaining)
        unseen = max(ahead.own + ahead.others - len(line), 0)
        return fleet.answers(groups, wanted, remaining=remaining, ahead=queries, unseen=unseen)

    return await run_in_threadpool(answers), ahead
