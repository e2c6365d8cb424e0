"""What answers under a name: a model, an alias for one, or a checkpoint of a job under the name it is listed with."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.evaluations import models as evaluated
from tunesmith.service.models.resolve import resolve
from tunesmith.service.permissions.named import is_checkpoint
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.inference_messages import ModelFiles, ServedModel

CHECKPOINT_FILES = ("adapter_model.safetensors", "adapter_config.json")  # all that an engine loads of a checkpoint


async def served(session: AsyncSession, name: str, *, project: str) -> ServedModel:
    """The weights that answer under this name now.

    Raises:
        NotFound: there is no such model or checkpoint, or it is another project's; nothing tells which.
        InvalidRequest: it has no weights that an engine can load.
    """
    if not is_checkpoint(name):
        return await resolve(session, name, project=project)
    ref = (await evaluated.find(session, name, project=project)).ref
    if {file.name for file in ref.files} != set(CHECKPOINT_FILES):
        raise InvalidRequest(
            f"{name!r:.300} is the state of a run that is no adapter by itself: no engine can load it.",
            code=ErrorCode.CHECKPOINT_NOT_SERVED,
            param="model",
            hint=f"Ask {name.rpartition(':')[0]}, when its job has ended.",
        )
    base = ModelFiles(name=str(ref.adapter_of), files=ref.base_files)
    return ServedModel(name=name, base=base, adapter=ModelFiles(name=name, files=ref.files))
