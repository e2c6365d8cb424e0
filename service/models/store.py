"""Queries about models."""

import difflib
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Job, Model
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.state import FINAL_STATES


async def find(session: AsyncSession, name: str, *, project: str) -> Model:
    """A model that this project can see.

    Raises:
        NotFound: there is none of that name.
    """
    query = select(Model).where(Model.name == name, _visible(project))
    model = (await session.execute(query)).scalar_one_or_none()
    if model is None:
        raise NotFound(f"The model {name!r} does not exist.", code=ErrorCode.MODEL_NOT_FOUND, param="model")
    return model


async def find_ready(session: AsyncSession, name: str, *, project: str) -> Model:
    """A model that a job can start from. Locked against deletion until the transaction ends.

    Raises:
        InvalidRequest: there is none; the hint names the nearest ones.
    """
    model = await find_plannable(session, name, project=project)
    if model.status == "ready":
        return model
    raise InvalidRequest(
        f"Of the model {name!r} only the shape is registered: it can be planned with, not trained.",
        code=ErrorCode.MODEL_HAS_NO_WEIGHTS,
        param="model",
        hint=f"Register its weights under the same name: tunesmith models add {name} --path FOLDER.",
    )


async def find_plannable(session: AsyncSession, name: str, *, project: str) -> Model:
    """A model whose shape is known, with weights or without. Locked against deletion until the transaction ends.

    Raises:
        InvalidRequest: there is none, or its files have not all come; the hint names the nearest ones.
    """
    model = (await session.execute(_KEPT, {"name": name, "of_project": project})).scalar_one_or_none()
    if model is not None and (model.status == "ready" or has_only_a_shape(model)):
        return model
    if model is not None:
        message = f"The model {name!r} is registered, but not all of its files have been uploaded."
        raise InvalidRequest(message, code=ErrorCode.MODEL_NOT_READY, param="model")
    names = [known.name for known in await find_many(session, project=project)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = (
        f"Did you mean {', '.join(near)}?" if near else f"Known models: {', '.join(sorted(names)[:10]) or 'none yet'}."
    )
    raise InvalidRequest(
        f"The model {name!r:.140} does not exist. {hint}", code=ErrorCode.MODEL_NOT_FOUND, param="model", hint=hint
    )


async def find_many(session: AsyncSession, *, project: str) -> list[Model]:
    """All models that are ready, or of which only the shape is known, that this project can see, the newest first."""
    usable = or_(Model.status == "ready", func.jsonb_array_length(Model.files) == 0)
    query = select(Model).where(usable, _visible(project)).order_by(Model.created_at.desc(), Model.name)
    return list((await session.execute(query)).scalars())


async def find_files(session: AsyncSession, name: str) -> list[FileRef]:
    """The files of the model and, of an adapter, of the model that it stands on."""
    base = select(Model.base_model).where(Model.name == name).scalar_subquery()
    sets = (await session.execute(select(Model.files).where(or_(Model.name == name, Model.name == base)))).scalars()
    return [FileRef.model_validate(file) for files in sets for file in files]


async def find_file(session: AsyncSession, name: str, sha256: str, *, project: str) -> FileRef:
    """One file of a model that this project can see.

    Raises:
        NotFound: there is no such model, or it has no such file.
    """
    model = await find(session, name, project=project)
    for file in model.files:
        if file["sha256"] == sha256:
            return FileRef.model_validate(file)
    raise NotFound(f"The model {name!r:.140} has no such file.", code=ErrorCode.ARTIFACT_NOT_FOUND, param="sha256")


def has_only_a_shape(model: Model) -> bool:
    """Registered by its config alone."""
    return not model.files


async def add_base(
    session: AsyncSession, name: str, *, digest: str, config: dict[str, Any], files: list[dict[str, Any]]
) -> None:
    """Store a base model whose files are still to come, unless the name is taken. Waits for one that is in flight."""
    row = insert(Model).values(name=name, kind="base", status="incomplete", digest=digest, config=config, files=files)
    await session.execute(row.on_conflict_do_nothing())


async def lock(session: AsyncSession, name: str) -> Model | None:
    """The row of that name, whoever may see it, locked."""
    return (await session.execute(select(Model).where(Model.name == name).with_for_update())).scalar_one_or_none()


async def count_open_jobs(session: AsyncSession, name: str) -> int:
    """Jobs that still need the model."""
    final = [state.value for state in FINAL_STATES]
    needed = Job.spec["evaluation"]["needs"].contains([name])  # null where there is no evaluation
    query = select(func.count()).where(or_(Job.spec["model"].astext == name, needed), Job.state.not_in(final))
    return (await session.execute(query)).scalar_one()


async def count_descendants(session: AsyncSession, name: str) -> int:
    """Fine-tuned models that stand on it."""
    return (await session.execute(select(func.count()).where(Model.base_model == name))).scalar_one()


def _visible(project: str) -> ColumnElement[bool]:
    return or_(Model.project.is_(None), Model.project == project)


_KEPT = (  # built once, for it is asked at every submission
    select(Model)
    .where(Model.name == bindparam("name"), or_(Model.project.is_(None), Model.project == bindparam("of_project")))
    .with_for_update(read=True, key_share=True)
)
