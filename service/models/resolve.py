"""What a name that a client asks for means: files of a base, and of the adapter that goes on it."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases import store as aliases
from tunesmith.service.aliases.names import is_alias
from tunesmith.service.database.tables import Model
from tunesmith.service.models import store
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.inference_messages import ModelFiles, ServedModel
from tunesmith.tuning.messages import FileRef


async def resolve(session: AsyncSession, name: str, *, project: str) -> ServedModel:
    """The weights that answer under this name now. Asked anew for each request, so that nothing old ever answers.

    Raises:
        NotFound: there is no such model, or it is another project's; nothing tells which.
        InvalidRequest: it has no weights, or not all of them.
    """
    model = await _find(session, name, project=project)
    if model.status != "ready":
        raise _not_ready(model)
    if model.kind != ArtifactKind.ADAPTER:
        return ServedModel(name=name, base=_files(model))
    base = await session.get_one(Model, model.base_model)
    return ServedModel(name=name, base=_files(base), adapter=_files(model))


async def _find(session: AsyncSession, name: str, *, project: str) -> Model:
    """The model that a name stands for. What else may stand for one belongs here."""
    if is_alias(name):  # one that stands for nothing is told as any other name that is unknown
        meant = await aliases.model_of(session, name, project=project)
        return await store.find(session, meant or name, project=project)
    return await store.find(session, name, project=project)


def _not_ready(model: Model) -> InvalidRequest:
    if store.has_only_a_shape(model):
        message = f"Of the model {model.name!r} only the shape is registered: there is nothing that could answer."
        return InvalidRequest(message, code=ErrorCode.MODEL_HAS_NO_WEIGHTS, param="model")
    message = f"The model {model.name!r} is registered, but not all of its files have been uploaded."
    return InvalidRequest(message, code=ErrorCode.MODEL_NOT_READY, param="model")


def _files(model: Model) -> ModelFiles:
    return ModelFiles(name=model.name, files=tuple(FileRef.model_validate(file) for file in model.files))
