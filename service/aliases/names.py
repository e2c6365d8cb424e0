"""What an alias may be called. No model's name has an `@`, so that a name is one or the other."""

import re

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_ALIAS = re.compile(r"ft:[a-z0-9][a-z0-9.-]{0,62}@[a-z0-9][a-z0-9-]{0,31}")


def is_alias(name: str) -> bool:
    """Whether this can only be meant as an alias, well written or not."""
    return "@" in name


def check_alias(name: str, *, param: str) -> str:
    """Return `name` when an alias may be called so: `ft:support@prod`.

    Raises:
        InvalidRequest: it may not.
    """
    if not _ALIAS.fullmatch(name):
        raise InvalidRequest(
            f"{name!r:.140} cannot be an alias.",
            code=ErrorCode.INVALID_ALIAS,
            param=param,
            hint="Write ft:WHAT@WHERE, as in ft:support@prod: small letters, digits and '-', before the @ also '.'.",
        )
    return name
