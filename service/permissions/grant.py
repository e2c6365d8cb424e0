"""Giving other projects a permission to ask one checkpoint, and taking it back."""

import difflib
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action, Actor
from tunesmith.service.database.access_tables import CheckpointPermission
from tunesmith.service.permissions import store
from tunesmith.service.permissions.named import NamedCheckpoint
from tunesmith.service.projects import store as projects
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_PARAM = "project_ids"


async def give(
    session: AsyncSession, named: NamedCheckpoint, project_ids: Sequence[str], *, actor: Actor
) -> list[CheckpointPermission]:
    """A permission for each project, once: who has one already keeps it.

    Raises:
        InvalidRequest: a project is unknown or made the checkpoint itself, or no files of the checkpoint are left.
    """
    wanted = list(dict.fromkeys(project_ids))
    _check_projects(wanted, known=await projects.names(session), owner=named.job.project)
    if not named.checkpoint.files:
        raise InvalidRequest(
            f"The checkpoint {named.name!r:.300} has let go of its files: there is nothing left to share.",
            code=ErrorCode.MODEL_HAS_NO_WEIGHTS,
            param="fine_tuned_model_checkpoint",
            hint="Give permissions within a day of the job's end; they keep the files of a checkpoint.",
        )
    given = await store.add(session, named.checkpoint, wanted)
    audit.record(session, actor, Action.CHECKPOINT_SHARED, named.name, projects=wanted)
    return given


async def take_back(session: AsyncSession, named: NamedCheckpoint, permission_id: str, *, actor: Actor) -> None:
    """Delete a permission. Requests that are being answered end well, the next one is refused.

    Raises:
        NotFound: the checkpoint has no such permission.
    """
    permission = await store.find(session, named.checkpoint, permission_id, param="permission_id")
    await session.delete(permission)
    audit.record(session, actor, Action.CHECKPOINT_UNSHARED, named.name, project=permission.project)


def _check_projects(wanted: Sequence[str], *, known: Sequence[str], owner: str) -> None:
    for place, project in enumerate(wanted):
        param = f"{_PARAM}.{place}"
        if project == owner:
            message = f"The project {owner!r} made the checkpoint and may ask it anyway."
            raise InvalidRequest(message, param=param, hint="Name other projects only.")
        if project not in known:
            near = difflib.get_close_matches(project, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "GET /v1/projects lists them; a key or a limit makes one."
            message = f"No project {project!r:.60}."
            raise InvalidRequest(message, code=ErrorCode.PROJECT_NOT_FOUND, param=param, hint=hint)
