"""The gate of a schedule: its result is measured beside the champion, and the verdict promotes or refuses it."""

from collections.abc import Mapping
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import File, Firing, Job, Schedule
from tunesmith.service.database.transactions import is_away
from tunesmith.service.evaluations.compare import Contest, compare
from tunesmith.service.evaluations.create import EvaluationRequest, create
from tunesmith.service.evaluations.models import BASE
from tunesmith.service.evaluations.schemas import EvaluationCreate
from tunesmith.service.files import store as files
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.failures import end, may_pass
from tunesmith.service.schedules.judging.settle import carry_out
from tunesmith.service.schedules.owner import owner_of
from tunesmith.service.schedules.schemas import GateFile, PostVerdict, ScheduleGate, ScheduleSettings
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, TunesmithError
from tunesmith.tuning.gate.verdict import Verdict
from tunesmith.tuning.state import FINAL_STATES
from tunesmith.tuning.words import FiringState

log = structlog.get_logger(__name__)

_AT_ONCE = 200
_MEANS: Mapping[str, Literal["better", "not_better", "inconclusive"]] = {
    "better": "better",
    "worse": "not_better",
    "no difference": "not_better",
}


async def judge_all(context: ScheduleContext) -> int:
    """Measure results that wait for the verdict of their schedule's gate, and carry out verdicts; returns how many."""
    async with context.database.transaction() as session:
        waiting = await store.find_gated(session, limit=_AT_ONCE)
    return sum([await _judge(context, found.id, schedule_id=found.schedule_id) for found in waiting])


async def _judge(context: ScheduleContext, firing_id: str, *, schedule_id: str) -> bool:
    try:
        return await _judge_or_fail(context, firing_id, schedule_id=schedule_id)
    except TunesmithError as error:
        if not may_pass(error):
            await _fail(context, firing_id, schedule_id=schedule_id, error=error)
    except Exception as error:
        if is_away(error):
            raise
        log.exception("schedule.firing_not_judged", firing=firing_id)
    return False


async def _judge_or_fail(context: ScheduleContext, firing_id: str, *, schedule_id: str) -> bool:
    """Begin to measure, or carry out what the measurements say once all have ended."""
    async with context.database.transaction() as session:
        schedule = await store.lock(session, schedule_id)
        firing = await store.lock_firing(session, firing_id)
        gate = ScheduleSettings.model_validate(schedule.settings).gate
        if firing.state != FiringState.AWAITING_VERDICT or gate is None:
            return False
        if firing.evaluations is None:
            firing.evaluations = await _begin(session, context, schedule, firing, gate=gate)
            firing.reason = "Waits for the evaluations of its gate."
            return True
        if not await _have_ended(session, firing.evaluations):
            return False
        verdict = await _verdict(session, schedule, firing.evaluations, gate=gate)
        await _carry_out(context, session, schedule, firing, verdict)
        return True


async def _begin(
    session: AsyncSession, context: ScheduleContext, schedule: Schedule, firing: Firing, *, gate: ScheduleGate
) -> dict[str, str]:
    """An evaluation for the rows that decide, under the empty name, and one for each guard rail, by their ids."""
    rows = {"": gate.rows, **gate.guards}
    return {
        name: (await _measure(session, context, schedule, firing, rows=of, gate=gate)).id for name, of in rows.items()
    }


async def _measure(
    session: AsyncSession,
    context: ScheduleContext,
    schedule: Schedule,
    firing: Firing,
    *,
    rows: GateFile,
    gate: ScheduleGate,
) -> Job:
    """The result beside the champion, or beside the base where there has been none."""
    service = context.settings
    file = await _file(session, rows, project=schedule.project)
    asked = EvaluationCreate(
        model=str(firing.model),
        file=file.id,
        against=firing.champion or BASE,
        score=gate.score,
        rows=gate.most_rows,
        gate=gate.rule,
        metadata={"schedule": schedule.name, "firing": firing.id},
    )
    request = EvaluationRequest(
        asked=asked,
        caller=await owner_of(session, schedule),
        idempotency_key=None,
        max_attempts=service.max_attempts,
        worker_silence=service.worker_silence,
        limits=service.limits_of(schedule.project),
        meant_by=service.model_meant_by,
    )
    return await create(session, request)


async def _file(session: AsyncSession, rows: GateFile, *, project: str) -> File:
    if rows.file is not None:
        return await files.find(session, rows.file, project=project)
    newest = await files.find_newest(session, project=project, filename=rows.filename, labels=None)
    if newest is None:
        raise InvalidRequest(
            f"There is no file named {rows.filename!r} to measure on.",
            code=ErrorCode.FILE_NOT_FOUND,
            param="gate",
            hint="Upload one with purpose fine-tune: tunesmith files add.",
        )
    return newest


async def _have_ended(session: AsyncSession, evaluations: Mapping[str, str]) -> bool:
    jobs = [await session.get_one(Job, evaluation) for evaluation in evaluations.values()]
    return all(job.state in FINAL_STATES for job in jobs)


async def _verdict(
    session: AsyncSession, schedule: Schedule, evaluations: Mapping[str, str], *, gate: ScheduleGate
) -> Verdict:
    guards = {name: Contest(evaluation) for name, evaluation in evaluations.items() if name}
    return await compare(session, Contest(evaluations[""]), project=schedule.project, rule=gate.rule, guards=guards)


async def _carry_out(
    context: ScheduleContext, session: AsyncSession, schedule: Schedule, firing: Firing, verdict: Verdict
) -> None:
    posted = PostVerdict(
        verdict=_MEANS.get(verdict.word, "inconclusive"),
        summary=verdict.text[:512],
        numbers=verdict.model_dump(mode="json"),
    )
    firing.verdict = {**posted.model_dump(mode="json"), "by": "gate"}
    at = await context.clock(session)
    await carry_out(session, schedule, firing, posted, author_key=schedule.api_key_id, at=at)
    await session.flush()


async def _fail(context: ScheduleContext, firing_id: str, *, schedule_id: str, error: TunesmithError) -> None:
    """What cannot be measured is not promoted."""
    async with context.database.transaction() as session:
        await store.lock(session, schedule_id)
        firing = await store.lock_firing(session, firing_id)
        if firing.state == FiringState.AWAITING_VERDICT:
            reason = f"Its gate cannot be asked. {error.message} {error.hint or ''}".strip()
            end(firing, FiringState.FAILED, at=await context.clock(session), reason=reason, code=error.code)
