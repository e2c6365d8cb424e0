"""The models that an evaluation names: registered ones and checkpoints, of all projects or of its own."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.checkpoints.weights import WHOLE_WEIGHTS, weights_of
from tunesmith.service.database.tables import Checkpoint, Job, Model
from tunesmith.service.evaluations import store
from tunesmith.service.jobs.views import model_name
from tunesmith.service.models import store as models
from tunesmith.service.models.references import base_model_ref, base_of, laid_on
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.messages import BaseModelRef, FileRef

BASE = "base"  # as a name of whom to compare with: what the model was made of

_CHECKPOINT = re.compile(r"(?P<model>ft:.+):ckpt-step-(?P<step>\d{1,12})")


@dataclass(frozen=True)
class Evaluated:
    """A model by the name it was asked for. `base` is what is loaded, `needs` the registered models that must stay."""

    name: str
    base: Model
    ref: BaseModelRef
    needs: tuple[str, ...]
    job_id: str | None = None  # of the job that made it

    @property
    def adapter_bytes(self) -> int:
        """Of what lies on the base, in memory beside it."""
        return sum(file.bytes for file in self.ref.files) if self._has_adapter else 0

    @property
    def _has_adapter(self) -> bool:
        return self.ref.adapter_of is not None and not any(file.name in WHOLE_WEIGHTS for file in self.ref.files)


def is_checkpoint(name: str) -> bool:
    """Whether a checkpoint is listed under names like this."""
    return _CHECKPOINT.fullmatch(name) is not None


async def find(session: AsyncSession, name: str, *, project: str, param: str = "model") -> Evaluated:
    """A model or checkpoint that the project can see. Registered models are locked against deletion until the end.

    Raises:
        NotFound: there is none of that name, whoever else may have it.
        InvalidRequest: it has no weights that could be loaded.
    """
    if (named := _CHECKPOINT.fullmatch(name)) is not None:
        return await _checkpoint(session, named["model"], step=int(named["step"]), project=project, param=param)
    try:
        await models.find(session, name, project=project)
    except NotFound:
        raise _no_such_model(name, param) from None
    model = await models.find_ready(session, name, project=project)
    base = await base_of(session, model)
    return Evaluated(name, base, await base_model_ref(session, model), tuple({model.name, base.name}), model.job_id)


async def find_base_of(session: AsyncSession, name: str, *, project: str) -> Evaluated:
    """What a fine-tuned model or a checkpoint was made of.

    Raises:
        NotFound: there is no such model.
        InvalidRequest: it is a base itself.
    """
    if (named := _CHECKPOINT.fullmatch(name)) is not None:
        job = await _maker(session, named["model"], project=project, param="model")
        return await find(session, str(job.spec["model"]), project=project, param="against")
    model = await models.find(session, name, project=project)
    if model.base_model is None:
        raise InvalidRequest(
            f"{name!r} is a base itself, so there is nothing under it to compare it with.",
            param="against",
            hint="Name another model, or leave `against` out.",
        )
    return await find(session, model.base_model, project=project, param="against")


async def find_sides(session: AsyncSession, model: str, against: str | None, *, project: str) -> list[Evaluated]:
    """The model, and the other one if there is one, which may be named `base`.

    Raises:
        NotFound, InvalidRequest: one of them does not exist here, or has no files any more.
    """
    found = [await find(session, model, project=project)]
    if against == BASE:
        found.append(await find_base_of(session, model, project=project))
    elif against is not None:
        found.append(await find(session, against, project=project, param="against"))
    return found


async def find_all(session: AsyncSession, job: Job) -> list[Evaluated]:
    """Those of an evaluation.

    Raises:
        NotFound, InvalidRequest: one of them is gone, or has no files any more.
    """
    asked = EvaluationSpec.model_validate(job.spec["evaluation"])
    return await find_sides(session, asked.model, asked.against, project=job.project)


def files_of(evaluated: Iterable[Evaluated]) -> Iterable[FileRef]:
    """Every file that a worker reads."""
    for one in evaluated:
        yield from one.ref.files
        yield from one.ref.base_files


async def _checkpoint(session: AsyncSession, name: str, *, step: int, project: str, param: str) -> Evaluated:
    job = await _maker(session, name, project=project, param=param)
    found = await checkpoints.find_at(session, job.id, step=step)
    full_name = f"{name}:ckpt-step-{step}"
    if found is None:
        raise _no_such_model(full_name, param)
    start = await models.find_ready(session, str(job.spec["model"]), project=project)
    base = await base_of(session, start)
    ref = laid_on(base, name=full_name, files=_weights(found, full_name, param))
    return Evaluated(full_name, base, ref, tuple({start.name, base.name}), job.id)


async def _maker(session: AsyncSession, name: str, *, project: str, param: str) -> Job:
    """The job whose result has, or will have, this name."""
    for job in await store.find_jobs_ending_in(session, name.rsplit(":", 1)[-1], project=project):
        if model_name(job) == name:
            return job
    raise _no_such_model(name, param)


def _weights(checkpoint: Checkpoint, name: str, param: str) -> tuple[FileRef, ...]:
    """The files that are the model, without what only training goes on from."""
    if found := weights_of(checkpoint):
        return found
    reason = "is shared out over the processes that made it" if checkpoint.files else "has let go of its files"
    raise InvalidRequest(
        f"The checkpoint {name!r} {reason}: no weights of it can be loaded.",
        code=ErrorCode.MODEL_HAS_NO_WEIGHTS,
        param=param,
        hint="Name the result of its job, or a newer checkpoint.",
    )


def _no_such_model(name: str, param: str) -> NotFound:
    return NotFound(f"The model {name!r:.300} does not exist.", code=ErrorCode.MODEL_NOT_FOUND, param=param)
