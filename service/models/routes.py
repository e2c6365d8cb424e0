"""`/v1/models` and `/v1/blobs`: list, look at and fetch models; admins register them and send their bytes."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from tunesmith.service.aliases import store as aliases
from tunesmith.service.aliases.names import is_alias
from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action
from tunesmith.service.blobs import intake
from tunesmith.service.blobs import store as blob_rows
from tunesmith.service.database.tables import Model
from tunesmith.service.models import registry, store
from tunesmith.service.models.hub_fetch import HubModels
from tunesmith.service.models.hub_progress import FETCHED, told_at_once, told_while_fetching
from tunesmith.service.models.hub_repository import hub_of
from tunesmith.service.models.schemas import FetchModel, RegisterModel
from tunesmith.service.web.auth import AdminKey, MemberKey
from tunesmith.service.web.bodies import MOST_LISTED_ELEMENTS, documented, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.parameters import ModelName, Range, Sha256
from tunesmith.service.web.streams import DOWNLOAD, send_blob
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.models import ModelList, ModelObject, TunesmithModel

router = APIRouter(prefix="/v1", tags=["models"])

_ANY_BYTES = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/models")
async def list_models(caller: MemberKey, session: DbSession, settings: SettingsDep) -> ModelList:
    """Base models, the project's fine-tuned ones, and names of other services that the operator lets mean one."""
    models = {model.name: model for model in await store.find_many(session, project=caller.project)}
    meant = {name: models[model] for name, model in settings.model_names.items() if model in models}
    own = [_model_object(model) for name, model in models.items() if name not in meant]
    return ModelList(data=[*own, *(_model_object(model, under=name) for name, model in meant.items())])


@router.get("/models/{name:path}")
async def retrieve_model(name: ModelName, caller: MemberKey, session: DbSession, settings: SettingsDep) -> ModelObject:
    """One model, by its name, by an alias that stands for it, or by a name that the operator lets mean it."""
    if name in settings.model_names:
        model = await store.find(session, settings.model_meant_by(name), project=caller.project)
        return _model_object(model, under=name)
    if is_alias(name):
        name = str((await aliases.find(session, name, project=caller.project)).model)
    return _model_object(await store.find(session, name, project=caller.project))


@router.post("/models", openapi_extra=documented(RegisterModel))
async def register_model(
    caller: AdminKey,
    request: Annotated[RegisterModel, json_body(RegisterModel, most_elements=MOST_LISTED_ELEMENTS)],
    session: DbSession,
    blobs: BlobsDep,
) -> ModelObject:
    """Register a base model; `tunesmith.missing` names the blobs to send before sending this again. Admins only."""
    model, missing = await registry.register(session, request, blobs=blobs)
    if not missing:
        audit.record(session, caller.actor, Action.MODEL_REGISTERED, model.name, digest=model.digest)
    return _model_object(model, missing=missing)


@router.post("/models/from_hub", response_model=None, responses=FETCHED, openapi_extra=documented(FetchModel))
async def fetch_model(
    caller: MemberKey,
    asked: Annotated[FetchModel, json_body(FetchModel)],
    *,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> Response:
    """Have the service fetch a model from the hub and register it, as far as the operator's list allows."""
    async with hub_of(settings) as hub:
        models = HubModels(settings, database, blobs, hub)
        if (model := await models.find(asked, caller=caller)) is not None:
            return told_at_once(_model_object(model))
        listing = await models.look(asked)
    return told_while_fetching(settings, database, blobs, listing, caller=caller, show=_model_object)


@router.delete("/models/{name:path}")
async def delete_model(name: ModelName, caller: MemberKey, session: DbSession) -> Deleted:
    """Delete a model that nothing needs any more; base models only by admins."""
    await registry.delete(session, name, caller=caller)
    audit.record(session, caller.actor, Action.MODEL_DELETED, name)
    return Deleted(id=name, object="model")


@router.get("/blobs/{sha256}", response_class=Response, responses=DOWNLOAD)
async def model_file(
    sha256: Sha256,
    model: Annotated[str, Query(max_length=300, description="The name of a model that has the file.")],
    *,
    caller: MemberKey,
    session: DbSession,
    blobs: BlobsDep,
    byte_range: Range = None,
) -> Response:
    """The bytes of one file of a model that the project can see. Range works."""
    file = await store.find_file(session, model, sha256, project=caller.project)
    filename = file.name.rsplit("/", maxsplit=1)[-1]
    return await send_blob(blobs, sha256, length_bytes=file.bytes, range_header=byte_range, filename=filename)


@router.put("/blobs/{sha256}", status_code=204, openapi_extra=_ANY_BYTES)
async def put_blob(
    sha256: Sha256,
    request: Request,
    *,
    _caller: AdminKey,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> Response:
    """Send the bytes of a model's file; they are verified against the name. Admins only."""
    length_bytes = await intake.write_stream(
        database, blobs, sha256, request.stream(), limit_bytes=settings.max_blob_bytes
    )
    async with database.transaction() as session:
        await blob_rows.record(session, sha256=sha256, length_bytes=length_bytes)
    return Response(status_code=204)


def _model_object(model: Model, *, missing: Sequence[str] = (), under: str | None = None) -> ModelObject:
    """The model, under its own name or under one that means it here."""
    ours = TunesmithModel(
        kind=model.kind,
        status="shape_only" if store.has_only_a_shape(model) else model.status,
        digest=model.digest,
        base_model=model.base_model,
        job_id=model.job_id,
        hub=model.hub,
        files=model.files,
        stands_for=None if under is None else model.name,
        missing=list(missing),
    )
    created = int(model.created_at.timestamp())
    return ModelObject(id=under or model.name, created=created, owned_by=model.project or "tunesmith", tunesmith=ours)
