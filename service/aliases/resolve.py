"""What a name that a caller gave means: an alias is replaced by the model that it stands for at this moment."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases import store
from tunesmith.service.aliases.names import check_alias, is_alias
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest


async def resolve(session: AsyncSession, name: str, *, project: str, param: str = "model") -> str:
    """The name of a model. One that is no alias comes back as it is, whether or not there is such a model.

    Raises:
        InvalidRequest: it is written like an alias and stands for nothing here.
    """
    if not is_alias(name):
        return name
    check_alias(name, param=param)
    model = await store.model_of(session, name, project=project)
    if model is None:
        message = f"The alias {name!r} stands for no model."
        hint = await store.near(session, name, project=project)
        raise InvalidRequest(message, code=ErrorCode.ALIAS_NOT_FOUND, param=param, hint=hint)
    return model
