"""Names of models: what a base may be called, and what a fine-tuned one is called."""

import re

from tunesmith.tuning.errors import InvalidRequest

_BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_FILE_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
_LONGEST_NAME = 128


def check_base_name(name: str) -> str:
    """Return `name` when a base model may carry it: `smollm2-135m-instruct`, `qwen/qwen3-8b`.

    Raises:
        InvalidRequest: it may not.
    """
    if len(name) > _LONGEST_NAME or not _BASE_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r:.140} cannot be a model's name.",
            param="name",
            hint="Use letters, digits, '.', '_', '-' and at most one '/'.",
        )
    return name


def check_file_name(name: str) -> str:
    """Return `name` when it is a relative path that stays inside the folder it will be put into.

    Raises:
        InvalidRequest: it is absolute, climbs up, or has characters that no file of a model needs.
    """
    if len(name) > 255 or not all(_FILE_NAME_PART.fullmatch(part) for part in name.split("/")):
        raise InvalidRequest(f"{name!r:.140} cannot be the name of a file in a set.", param="files.name")
    return name


def fine_tuned_name(*, base: str, project: str, suffix: str | None, job_id: str) -> str:
    """`ft:{base}:{project}:{suffix}:{end of the job's id}`; never with a slash, so that it is one part of a URL."""
    return f"ft:{slug(base)}:{project}:{slug(suffix or '')}:{job_id[-8:]}"


def checkpoint_name(model_name: str, *, step: int) -> str:
    """The name a checkpoint is listed under."""
    return f"{model_name}:ckpt-step-{step}"


def slug(text: str) -> str:
    """The last part of a path-like name, in lower case, of letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.rsplit("/", maxsplit=1)[-1].lower()).strip("-.")
