"""A registered model as a worker fetches it: its files, and those of the base under it."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Model
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.messages import BaseModelRef, FileRef
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.models.shape import MEASURED_SHAPE, ModelShape


async def base_model_ref(session: AsyncSession, model: Model) -> BaseModelRef:
    """The model; of an adapter also the base that it lies on."""
    if model.kind != ArtifactKind.ADAPTER:
        return BaseModelRef(name=model.name, files=files_of(model), measured_shape=_measured(model), hub=_hub(model))
    base = await base_of(session, model)
    return laid_on(base, name=model.name, files=files_of(model))


def laid_on(base: Model, *, name: str, files: tuple[FileRef, ...]) -> BaseModelRef:
    """Files that change a base, under a name of their own."""
    return BaseModelRef(
        name=name,
        files=files,
        adapter_of=base.name,
        base_files=files_of(base),
        measured_shape=_measured(base),
        hub=_hub(base),
    )


async def base_of(session: AsyncSession, model: Model) -> Model:
    """What a job that starts from the model loads: of an adapter the model under it, else the model itself."""
    if model.kind != ArtifactKind.ADAPTER:
        return model
    return await session.get_one(Model, model.base_model)


def files_of(model: Model) -> tuple[FileRef, ...]:
    """Its own."""
    return tuple(FileRef.model_validate(file) for file in model.files)


def _hub(model: Model) -> HubCommit | None:
    return HubCommit.model_validate(model.hub) if model.hub else None


def _measured(model: Model) -> ModelShape | None:
    return ModelShape.from_config(model.config) if MEASURED_SHAPE in model.config else None
