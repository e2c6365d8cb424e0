"""The gate as others use it: a candidate against a champion on the same rows, with guard rails on other rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import File, Job
from tunesmith.service.evaluations import store
from tunesmith.service.evaluations.results import verdict_of
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.evaluation import EvaluatedRow, pairs_of
from tunesmith.tuning.gate.paired import Pair
from tunesmith.tuning.gate.verdict import GateRule, Verdict, judge, no_verdict
from tunesmith.tuning.state import FINAL_STATES, JobState


@dataclass(frozen=True)
class Contest:
    """Ids of evaluations: of a candidate and of its champion, or of one that measured both."""

    candidate: str
    champion: str | None = None


async def compare(
    session: AsyncSession,
    contest: Contest,
    *,
    project: str,
    rule: GateRule,
    guards: Mapping[str, Contest] | None = None,
) -> Verdict:
    """Judge by evaluations that have ended, and keep the verdict with its numbers.

    One that failed or was cancelled is no reason to fail here: then the verdict is "no verdict", with the reason.

    Raises:
        NotFound: an evaluation does not exist in this project.
        InvalidRequest: `cannot_compare`: one has not ended, or the two are of other rows or scores.
    """
    verdict = await _judged(session, contest, project=project, rule=rule, guards=guards or {})
    await store.add_verdict(
        session, project=project, candidate=contest.candidate, champion=contest.champion, verdict=verdict
    )
    return verdict


async def _judged(
    session: AsyncSession, contest: Contest, *, project: str, rule: GateRule, guards: Mapping[str, Contest]
) -> Verdict:
    pairs = await _pairs(session, contest, project=project)
    if isinstance(pairs, str):
        return no_verdict(pairs, rule=rule)
    rails: dict[str, Sequence[Pair]] = {}
    for name, guard in guards.items():
        found = await _pairs(session, guard, project=project)
        if isinstance(found, str):
            return no_verdict(f"Guard rail {name}: {found}", rule=rule)
        rails[name] = found
    return judge(pairs, rule=rule, guards=rails)


async def _pairs(session: AsyncSession, contest: Contest, *, project: str) -> list[Pair] | str:
    """The rows that both models were measured on, or why there are none."""
    candidate = await store.find(session, contest.candidate, project=project)
    champion = None if contest.champion is None else await store.find(session, contest.champion, project=project)
    for job in (candidate, champion):
        if job is not None and (reason := _why_unusable(job)) is not None:
            return reason
    rows = await _rows(session, candidate)
    if champion is None:
        if verdict_of(candidate) is None:
            raise _cannot(f"{candidate.id} measured one model alone: name a second evaluation to compare it with.")
        return pairs_of(rows)
    await _require_same(session, candidate, champion)
    others = {row.line: row.model.sums for row in await _rows(session, champion)}
    return [Pair(row.model.sums, others[row.line]) for row in rows if row.line in others]


def _why_unusable(job: Job) -> str | None:
    if job.state not in FINAL_STATES:
        raise _cannot(f"{job.id} is {job.state}: it can be compared when it has succeeded.")
    if job.state == JobState.SUCCEEDED:
        return None
    why = f": {job.failure['message']}" if job.failure else "."
    return f"The evaluation {job.id} {job.state}{why}"


async def _require_same(session: AsyncSession, candidate: Job, champion: Job) -> None:
    first = await session.get_one(File, candidate.training_file)
    second = await session.get_one(File, champion.training_file)
    if candidate.training_file != champion.training_file and (
        first.blob_sha256 is None or first.blob_sha256 != second.blob_sha256
    ):
        raise _cannot(f"{candidate.id} and {champion.id} were measured on other rows.")
    if candidate.spec["evaluation"]["score"] != champion.spec["evaluation"]["score"]:
        raise _cannot(f"{candidate.id} and {champion.id} were scored by other rules.")


async def _rows(session: AsyncSession, job: Job) -> list[EvaluatedRow]:
    found = await store.find_rows(session, job, order="line", after=None, limit=None)
    return [EvaluatedRow.model_validate(row) for row in found]


def _cannot(message: str) -> InvalidRequest:
    return InvalidRequest(message, code=ErrorCode.CANNOT_COMPARE, param="evaluation")
