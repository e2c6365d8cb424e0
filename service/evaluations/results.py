"""What a worker left of an evaluation: its rows, read and checked, and what they come to."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import Database
from tunesmith.service.evaluations import store
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.evaluation import (
    MOST_ROWS,
    ROWS_FILE,
    EvaluatedRow,
    EvaluationSpec,
    measures_of,
    pairs_of,
)
from tunesmith.tuning.gate.verdict import Verdict, judge, no_verdict
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.values.json_objects import Json

_LARGEST_BYTES = 128 * 1024**2


async def read_rows(database: Database, blobs: BlobStore, attempt_id: str) -> list[EvaluatedRow] | Failure:
    """The rows that the attempt registered, or why they cannot be read. No transaction is open while bytes move."""
    async with database.transaction() as session:
        found = await artifacts.find_of_attempt(session, attempt_id)
    artifact = found.get(ArtifactKind.EVALUATION)
    file = next((one for one in artifact.files if one["name"] == ROWS_FILE), None) if artifact else None
    if file is None:
        return _broken(f"The worker left no {ROWS_FILE}.")
    ref = FileRef.model_validate(file)
    if ref.bytes > _LARGEST_BYTES:
        return _broken(f"{ROWS_FILE} has {ref.bytes:,} bytes, and {_LARGEST_BYTES:,} are the most.")
    content = b"".join([chunk async for chunk in blobs.read(ref.sha256, start=0, end=ref.bytes)])
    return _parsed(content)


async def record(session: AsyncSession, job: Job, rows: Sequence[EvaluatedRow]) -> Json:
    """Store the rows with the verdict on them; returns what the job's result says of it all."""
    await store.add_rows(session, job, _stored(rows))
    asked = EvaluationSpec.model_validate(job.spec["evaluation"])
    others = [row.against for row in rows if row.against is not None]
    summary: dict[str, Any] = {
        "model": measures_of([row.model for row in rows]).model_dump(mode="json"),
        "against": measures_of(others).model_dump(mode="json") if others else None,
        "verdict": None,
    }
    if asked.against is not None:
        verdict = judge(pairs_of(rows), rule=asked.rule)
        summary["verdict"] = verdict.model_dump(mode="json")
        await store.add_verdict(session, project=job.project, candidate=job.id, champion=None, verdict=verdict)
        events.append(session, job, f"Verdict: {verdict.word}. {verdict.text}")
    return storable(summary)


def verdict_of(job: Job) -> Verdict | None:
    """What the evaluation itself says of its two models; no verdict where it ended badly, None where it has none."""
    asked = EvaluationSpec.model_validate(job.spec["evaluation"])
    if asked.against is None or job.finished_at is None:
        return None
    stored = (job.result or {}).get("evaluation", {}).get("verdict")
    if stored is not None:
        return Verdict.model_validate(stored)
    why = f": {job.failure['message']}" if job.failure else ""
    return no_verdict(f"The evaluation {job.state}{why}", rule=asked.rule)


def _parsed(content: bytes) -> list[EvaluatedRow] | Failure:
    lines = content.splitlines()
    if not 1 <= len(lines) <= MOST_ROWS:
        return _broken(f"{ROWS_FILE} has {len(lines):,} rows, where 1 to {MOST_ROWS:,} can be.")
    try:
        rows = [EvaluatedRow.model_validate_json(line) for line in lines]
    except ValidationError as error:
        return _broken(f"A line of {ROWS_FILE} cannot be read: {error.errors(include_url=False)[0]['msg']}.")
    if len({row.line for row in rows}) < len(rows):
        return _broken(f"{ROWS_FILE} has a row twice.")
    return rows


def _stored(rows: Sequence[EvaluatedRow]) -> list[dict[str, Any]]:
    worst = sorted(rows, key=_speaks_for_the_model)
    places = {row.line: place for place, row in enumerate(worst, start=1)}
    return [
        {"line": row.line, "place": places[row.line], "data": storable(row.model_dump(mode="json"))} for row in rows
    ]


def _speaks_for_the_model(row: EvaluatedRow) -> tuple[int, float, int]:
    """The lowest for a row that the other model gets right and the model does not; then by the gap of their losses."""
    own, other = row.model, row.against
    hits = int(bool(own.hit)) - int(bool(other.hit) if other is not None else 0)
    gap = own.mean_loss - (other.mean_loss if other is not None else 0.0)
    return hits, -gap, row.line


def _broken(message: str) -> Failure:
    return Failure(
        code=ErrorCode.EVALUATION_BROKEN,
        message=message,
        category=Category.INTERNAL,
        retryable=True,
        hint="The log of the worker says more; the evaluation is tried again.",
    )
