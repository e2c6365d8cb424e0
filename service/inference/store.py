"""Queries about inference workers, the bytes they may read, and tokens used."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.inference_tables import InferenceUsage, InferenceWorker
from tunesmith.service.database.tables import Blob, Checkpoint, Model
from tunesmith.service.inference.served import CHECKPOINT_FILES
from tunesmith.service.inference.used import Used
from tunesmith.service.keys.store import may_register
from tunesmith.tuning.inference_messages import RegisterInferenceWorker


async def upsert(session: AsyncSession, request: RegisterInferenceWorker, *, lineage: str) -> bool:
    """Store the worker as it describes itself at its start; False when its id is that of another key's worker."""
    facts = {
        **request.model_dump(exclude={"worker_id"}),
        "doing": "ready",
        "bases": [],
        "names": None,
        "requests": 0,
        "registered_at": func.now(),
        "last_seen_at": func.now(),
        "key_lineage": lineage,
    }
    row = insert(InferenceWorker).values(id=request.worker_id, **facts)
    allowed = may_register(InferenceWorker.key_lineage, lineage)
    stored = row.on_conflict_do_update(index_elements=[InferenceWorker.id], set_=facts, where=allowed)
    return (await session.execute(stored.returning(InferenceWorker.id))).scalar_one_or_none() is not None


async def lock(session: AsyncSession, worker_id: str) -> InferenceWorker | None:
    """The worker's row, locked."""
    query = select(InferenceWorker).where(InferenceWorker.id == worker_id).with_for_update(key_share=True)
    return (await session.execute(query)).scalar_one_or_none()


async def find_live(session: AsyncSession, *, silence: timedelta) -> list[InferenceWorker]:
    """Those heard of within `silence`."""
    query = (
        select(InferenceWorker).where(InferenceWorker.last_seen_at > func.now() - silence).order_by(InferenceWorker.id)
    )
    return list((await session.execute(query)).scalars())


async def find_length_of_model_file(session: AsyncSession, sha256: str) -> int | None:
    """How many bytes of a model, or of a checkpoint's adapter, the store has under this hash; None for all others."""
    one = func.jsonb_build_array(func.jsonb_build_object("sha256", sha256))
    of_model = select(Model.name).where(Model.files.contains(one)).exists()
    named = [func.jsonb_build_array(func.jsonb_build_object("sha256", sha256, "name", n)) for n in CHECKPOINT_FILES]
    of_checkpoint = select(Checkpoint.id).where(or_(*map(Checkpoint.files.contains, named))).exists()
    query = select(Blob.bytes).where(Blob.sha256 == sha256, Blob.is_stored, or_(of_model, of_checkpoint))
    return (await session.execute(query)).scalar_one_or_none()


async def add_usage(session: AsyncSession, used: Mapping[str, Used]) -> None:
    """Count what projects have used, by project."""
    for project, one in sorted(used.items()):
        counts = {
            "requests": one.requests,
            "prompt_tokens": one.prompt_tokens,
            "completion_tokens": one.completion_tokens,
        }
        row = insert(InferenceUsage).values(project=project, **counts)
        more = {name: getattr(InferenceUsage, name) + number for name, number in counts.items()}
        await session.execute(row.on_conflict_do_update(index_elements=[InferenceUsage.project], set_=more))


async def total_usage(session: AsyncSession) -> Used:
    """Of all projects."""
    query = select(
        func.coalesce(func.sum(InferenceUsage.requests), 0),
        func.coalesce(func.sum(InferenceUsage.prompt_tokens), 0),
        func.coalesce(func.sum(InferenceUsage.completion_tokens), 0),
    )
    requests, prompt_tokens, completion_tokens = (await session.execute(query)).one()
    return Used(requests=int(requests), prompt_tokens=int(prompt_tokens), completion_tokens=int(completion_tokens))
