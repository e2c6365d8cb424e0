"""The models that an evaluation names: registered ones and checkpoints, of all projects or of its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.checkpoints.weights import WHOLE_WEIGHTS, weights_of
from tunesmith.service.database.tables import Checkpoint, Job, Model
from tunesmith.service.models import store as models
from tunesmith.service.models.references import base_model_ref, base_of, laid_on
from tunesmith.service.permissions import named as checkpoints
from tunesmith.service.permissions.named import NamedCheckpoint
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.messages import BaseModelRef, FileRef

BASE = "base"  # as a name of whom to compare with: what the model was made of


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


async def find(session: AsyncSession, name: str, *, project: str, param: str = "model") -> Evaluated:
    """A model or checkpoint that the project can see. Registered models are locked against deletion until the end.

    Raises:
        NotFound: there is none of that name, whoever else may have it.
        InvalidRequest: it has no weights that could be loaded.
    """
    if checkpoints.is_checkpoint(name):
        named = await checkpoints.find(session, name, project=project, param=param)
        return await _of_checkpoint(session, named, param=param)
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
    if checkpoints.is_checkpoint(name):
        job = (await checkpoints.find(session, name, project=project)).job
        return await find(session, str(job.spec["model"]), project=project, param="against")
    model = await models.find(session, name, project=project)
    if model.base_model is None:
        raise InvalidRequest(
            f"{name!r} is a base itself, so there is nothing under it to compare it with.",
            param="against",
            hint="Name another model, or leave `against` out.",
        )
    return await find(session, model.base_model, project=project, param="against")


async def find_sides(
    session: AsyncSession,
    model: str,
    against: str | None,
    *,
    project: str,
    meant_by: Callable[[str], str] = lambda name: name,
) -> list[Evaluated]:
    """The model, and the other one if there is one, which may be named `base`.

    An alias is the model that it stands for now; `meant_by` is the one that the operator lets a name mean.

    Raises:
        NotFound, InvalidRequest: one of them does not exist here, or has no files any more.
    """
    name = await resolve(session, meant_by(model), project=project)
    found = [await find(session, name, project=project)]
    if against == BASE:
        found.append(await find_base_of(session, name, project=project))
    elif against is not None:
        other = await resolve(session, meant_by(against), project=project, param="against")
        found.append(await find(session, other, project=project, param="against"))
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


async def _of_checkpoint(session: AsyncSession, named: NamedCheckpoint, *, param: str) -> Evaluated:
    """The weights, on the base that its job loads: whoever may ask the checkpoint need not see what it started from."""
    job = named.job
    start = await models.find_ready(session, str(job.spec["model"]), project=job.project)
    base = await base_of(session, start)
    ref = laid_on(base, name=named.name, files=_weights(named.checkpoint, named.name, param))
    return Evaluated(named.name, base, ref, tuple({start.name, base.name}), job.id)


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
