"""`/v1/projects`: an admin sees what projects have, and says what they may have."""

from typing import Annotated

from fastapi import APIRouter, Path

from tunesmith.service.access.schemas import ProjectChange
from tunesmith.service.projects import overview
from tunesmith.service.web.auth import AdminKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DbSession, SettingsDep
from tunesmith.tuning.api.access.projects import ProjectList, ProjectObject

router = APIRouter(prefix="/v1/projects", tags=["keys and projects"])

ProjectName = Annotated[str, Path(description="The project's name: 1 to 40 of a-z, 0-9 and '-'.")]


@router.get("")
async def list_projects(_caller: AdminKey, session: DbSession, settings: SettingsDep) -> ProjectList:
    """Every project that has limits, a key, a file or a job. Admins only."""
    return ProjectList(data=await overview.every(session, settings))


@router.get("/{name}")
async def retrieve_project(
    name: ProjectName, _caller: AdminKey, session: DbSession, settings: SettingsDep
) -> ProjectObject:
    """One project. Admins only."""
    return await overview.find(session, name, settings)


@router.post("/{name}", openapi_extra=documented(ProjectChange))
async def set_project_limits(
    name: ProjectName,
    caller: AdminKey,
    *,
    request: Annotated[ProjectChange, json_body(ProjectChange)],
    session: DbSession,
    settings: SettingsDep,
) -> ProjectObject:
    """Create a project, or change what it may have. Admins only."""
    await overview.set_limits(session, name, request.model_dump(exclude_unset=True), actor=caller.actor)
    return await overview.find(session, name, settings)
