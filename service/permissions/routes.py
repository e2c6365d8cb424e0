"""`/v1/fine_tuning/checkpoints/{name}/permissions`: an admin says which other projects may ask a checkpoint."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from tunesmith.service.database.access_tables import CheckpointPermission
from tunesmith.service.permissions import grant, named, store
from tunesmith.service.permissions.schemas import PermissionsCreate
from tunesmith.service.web.auth import AdminKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DbSession
from tunesmith.service.web.parameters import AT_MOST, After
from tunesmith.tuning.api.access.permissions import PermissionObject, PermissionPage
from tunesmith.tuning.api.lists import Deleted

_PARAM = "fine_tuned_model_checkpoint"
router = APIRouter(prefix=f"/v1/fine_tuning/checkpoints/{{{_PARAM}:path}}/permissions", tags=["keys and projects"])

CheckpointName = Annotated[str, Path(description="The name a checkpoint is listed with, `ft:...:ckpt-step-N`.")]


@router.post("", openapi_extra=documented(PermissionsCreate))
async def create_checkpoint_permissions(
    fine_tuned_model_checkpoint: CheckpointName,
    caller: AdminKey,
    request: Annotated[PermissionsCreate, json_body(PermissionsCreate)],
    session: DbSession,
) -> PermissionPage:
    """Let other projects ask this checkpoint, and nothing else of its job. Admins only."""
    found = await named.find_of_any_project(session, fine_tuned_model_checkpoint, param=_PARAM)
    given = await grant.give(session, found, request.project_ids, actor=caller.actor)
    return PermissionPage.of([_permission_object(row) for row in given], limit=len(given))


@router.get("")
async def list_checkpoint_permissions(
    fine_tuned_model_checkpoint: CheckpointName,
    _caller: AdminKey,
    *,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 10,
    order: Annotated[Literal["ascending", "descending"], Query(description="Oldest or newest first.")] = "descending",
    project_id: Annotated[str | None, Query(description="Only the permission of this project.")] = None,
) -> PermissionPage:
    """Which projects may ask this checkpoint. Admins only."""
    found = await named.find_of_any_project(session, fine_tuned_model_checkpoint, param=_PARAM)
    rows = await store.find_many(
        session, found.checkpoint, project=project_id, after=after, order=order, limit=limit + 1
    )
    return PermissionPage.of([_permission_object(row) for row in rows], limit=limit)


@router.delete("/{permission_id}")
async def delete_checkpoint_permission(
    fine_tuned_model_checkpoint: CheckpointName,
    permission_id: Annotated[str, Path(description="The permission's id, `cp-...`.")],
    caller: AdminKey,
    session: DbSession,
) -> Deleted:
    """Take a permission back: the next request of that project is refused. Admins only."""
    found = await named.find_of_any_project(session, fine_tuned_model_checkpoint, param=_PARAM)
    await grant.take_back(session, found, permission_id, actor=caller.actor)
    return Deleted(id=permission_id, object="checkpoint.permission")


def _permission_object(row: CheckpointPermission) -> PermissionObject:
    return PermissionObject(id=row.id, created_at=int(row.created_at.timestamp()), project_id=row.project)
