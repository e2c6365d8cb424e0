"""Which checkpoint a name means, for a project that made it or was given a permission."""

import re
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Checkpoint, Job
from tunesmith.service.jobs.views import model_name
from tunesmith.service.permissions import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound

_NAME = re.compile(r"(?P<model>ft:[^:]*:(?P<project>[^:]*):[^:]*:(?P<ending>[^:]+)):ckpt-step-(?P<step>\d{1,12})")


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint with the name it is listed under, and its job."""

    name: str
    job: Job
    checkpoint: Checkpoint


def is_checkpoint(name: str) -> bool:
    """Whether a checkpoint is listed under names like this."""
    return _NAME.fullmatch(name) is not None


async def find(session: AsyncSession, name: str, *, project: str, param: str = "model") -> NamedCheckpoint:
    """A checkpoint that the project made or may ask.

    Raises:
        NotFound: there is none of that name, or it is another project's; nothing tells which.
    """
    named = _NAME.fullmatch(name)
    if named is not None:
        step = int(named["step"])
        rows = await store.find_own(session, named["ending"], step=step, project=project)
        rows += await store.find_granted(session, named["ending"], step=step, project=project)
        for job, checkpoint in rows:
            if model_name(job) == named["model"]:
                return NamedCheckpoint(name, job, checkpoint)
    raise NotFound(f"The model {name!r:.300} does not exist.", code=ErrorCode.MODEL_NOT_FOUND, param=param)


async def find_of_any_project(session: AsyncSession, name: str, *, param: str) -> NamedCheckpoint:
    """The same for an administrator, who may give permissions for every project's checkpoints.

    Raises:
        NotFound: there is none of that name.
    """
    named = _NAME.fullmatch(name)
    return await find(session, name, project=named["project"] if named else "", param=param)
