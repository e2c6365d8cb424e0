"""Where a base model comes from, for whoever has to find the same weights again."""

from pydantic import Field

from tunesmith.tuning.values.base import Value

_PLACE_OF_A_FOLDER = "/path/to"


class HubCommit(Value):
    """One commit of a repository of the model hub."""

    id: str = Field(max_length=200, pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    """Its id: `owner/name`."""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit, as 40 hexadecimal digits: branches and tags move."""


def loadable_name(name: str, hub: HubCommit | None) -> str:
    """What an adapter's `base_model_name_or_path` holds: a hub id, else a path that no hub can be asked for.

    The name that a base is registered under is never given: libraries would ask the hub for it, and might get the
    model of a stranger.
    """
    return hub.id if hub else f"{_PLACE_OF_A_FOLDER}/{name}"


def is_placeholder(base: str) -> bool:
    """Whether `loadable_name` had nothing to give but the place where a folder's path belongs."""
    return base.startswith(f"{_PLACE_OF_A_FOLDER}/")
