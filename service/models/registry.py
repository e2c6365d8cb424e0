"""Registering and deleting models."""

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases import store as aliases
from tunesmith.service.blobs import store as blob_rows
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.tables import Model
from tunesmith.service.models import store
from tunesmith.service.models.names import check_base_name, check_file_name
from tunesmith.service.models.schemas import RegisterModel
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden, InvalidRequest, NotFound
from tunesmith.tuning.messages import FileRef, set_digest
from tunesmith.tuning.models.config_reader import as_json
from tunesmith.tuning.models.files import CONFIG, LARGEST_CONFIG_BYTES, check_model_file
from tunesmith.tuning.models.shape import MEASURED_SHAPE, ModelShape
from tunesmith.tuning.values.units import plural


async def register(session: AsyncSession, request: RegisterModel, *, blobs: BlobStore) -> tuple[Model, list[str]]:
    """Record a base model and say which of its files are still missing. Sending the same set again is harmless.

    Without files only the shape is recorded: it can be planned with, and files may follow under the same name.

    Raises:
        InvalidRequest: the set is not a model we can train, or the name already means other files.
    """
    check_base_name(request.name)
    files = request.files or ()
    if files:
        _check_files(files)
    ModelShape.from_config(request.config)
    config = as_json(request.config)
    digest = set_digest(files)
    missing = await blob_rows.missing(session, files)
    if files and not missing:
        await _check_config(blobs, files, config)
    status = "ready" if files and not missing else "incomplete"
    await store.add_base(session, request.name, digest=digest, config=config, files=_dumped(files))
    model = await store.lock(session, request.name)
    loses_files = model is not None and bool(model.files) and not files
    if model is None or model.kind != "base" or loses_files or (model.digest != digest and model.status == "ready"):
        message = f"A different model is already registered as {request.name!r}."
        raise InvalidRequest(
            message, code=ErrorCode.MODEL_EXISTS, param="name", hint="Delete it first, or choose another name."
        )
    model.digest, model.files, model.config = digest, _dumped(files), config
    model.status = status
    model.hub = request.hub.model_dump() if request.hub else model.hub
    await session.flush()
    return model, missing


async def delete(session: AsyncSession, name: str, *, caller: Caller) -> None:
    """Forget a model that nothing needs.

    Raises:
        NotFound: there is none.
        Forbidden: it is a base model and the caller is no admin.
        InvalidRequest: an unfinished job or a fine-tuned model needs it.
    """
    model = await store.lock(session, name)
    if model is None or model.project not in (None, caller.project):
        raise NotFound(f"The model {name!r} does not exist.", code=ErrorCode.MODEL_NOT_FOUND, param="model")
    if model.kind == "base" and caller.role != "admin":
        raise Forbidden("Base models are shared: only an admin deletes them.")
    if jobs := await store.count_open_jobs(session, name):
        message = f"{plural(jobs, 'unfinished job')} {'needs' if jobs == 1 else 'need'} {name!r}."
        raise InvalidRequest(message, code=ErrorCode.MODEL_IN_USE, param="model")
    if names := await aliases.find_pointing_at(session, name):
        message = f"The alias {names[0]} stands for {name!r}."
        hint = "Let it stand for another model first, or delete it: tunesmith aliases."
        raise InvalidRequest(message, code=ErrorCode.MODEL_IN_USE, param="model", hint=hint)
    if models := await store.count_descendants(session, name):
        message = f"{plural(models, 'fine-tuned model')} {'stands' if models == 1 else 'stand'} on {name!r}."
        raise InvalidRequest(message, code=ErrorCode.MODEL_IN_USE, param="model")
    await session.delete(model)


def _check_files(files: tuple[FileRef, ...]) -> None:
    names = [check_file_name(file.name) for file in files]
    if len({name.lower() for name in names}) != len(names):
        raise InvalidRequest("Two files of the set have the same name.", param="files")
    for file in files:
        check_model_file(file.name, length_bytes=file.bytes)
    if CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        message = "A model needs config.json and at least one .safetensors file."
        raise InvalidRequest(message, code=ErrorCode.INCOMPLETE_MODEL, param="files")


async def _check_config(blobs: BlobStore, files: tuple[FileRef, ...], config: dict[str, Any]) -> None:
    """Plans are made from the config that was registered, training from config.json: they must be the same."""
    (file,) = (file for file in files if file.name == CONFIG)
    text = b"".join([chunk async for chunk in blobs.read(file.sha256, start=0, end=LARGEST_CONFIG_BYTES + 1)])
    try:
        stored = json.loads(text) if len(text) <= LARGEST_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise InvalidRequest("config.json is no JSON object.", code=ErrorCode.BROKEN_MODEL, param="files")
    wanted, given = ({**one, MEASURED_SHAPE: None} for one in (as_json(stored), config))
    if wanted != given:
        raise InvalidRequest(
            "`config` is not what config.json says.",
            code=ErrorCode.BROKEN_MODEL,
            param="config",
            hint="Send the content of the config.json that is among the files.",
        )


def _dumped(files: tuple[FileRef, ...]) -> list[dict[str, object]]:
    return [file.model_dump() for file in files]
