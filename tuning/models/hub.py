"""Where a base model comes from, for whoever has to find the same weights again."""

import re

from pydantic import Field

from tunesmith.tuning.values.base import Value

_PLACE_OF_A_FOLDER = "/path/to"
_LONGEST_REPOSITORY = 128  # as the name of a model
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}/[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_/-]|\.(?!\.)){0,199}")


class HubCommit(Value):
    """One commit of a repository of the model hub."""

    id: str = Field(max_length=200, pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    """Its id: `owner/name`."""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit, as 40 hexadecimal digits: branches and tags move."""


def is_repository(name: str) -> bool:
    """Whether it is written like a repository of the hub: `owner/name`, and no path to anything else."""
    return len(name) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(name) is not None


def is_revision(text: str) -> bool:
    """Whether it is written like a branch, a tag or a commit."""
    return _REVISION.fullmatch(text) is not None


def loadable_name(name: str, hub: HubCommit | None) -> str:
    """What an adapter's `base_model_name_or_path` holds: a hub id, else a path that no hub can be asked for.

    The name that a base is registered under is never given: libraries would ask the hub for it, and might get the
    model of a stranger.
    """
    return hub.id if hub else f"{_PLACE_OF_A_FOLDER}/{name}"


def is_placeholder(base: str) -> bool:
    """Whether `loadable_name` had nothing to give but the place where a folder's path belongs."""
    return base.startswith(f"{_PLACE_OF_A_FOLDER}/")
