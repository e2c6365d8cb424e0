"""Models known here by their config.json alone, in the user's data folder: planning needs no weights and no service."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from tunesmith.cli.connection import default_data_dir
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.json_objects import Json


def read_config(path: Path) -> Json:
    """The config.json that `path` is, or that the folder `path` holds.

    Raises:
        InvalidRequest: there is none, or it is no JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidRequest(
            f"There is no {file}.", param="config", hint="--config wants a config.json or its folder."
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file.name} is not JSON: {error}.", param="config") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{file.name} holds no JSON object.", param="config")
    return fields


def remember(name: str, config: Json, *, environment: Mapping[str, str] = os.environ) -> Path:
    """Keep a config under a name, in place of an earlier one; returns its file."""
    path = _path(name, environment)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(config, indent=2), encoding="utf-8")
    aside.rename(path)
    return path


def recall(name: str, *, environment: Mapping[str, str] = os.environ) -> Json | None:
    """The config kept under a name; None when there is none."""
    path = _path(name, environment)
    return read_config(path) if path.is_file() else None


def forget(name: str, *, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there was one to forget."""
    path = _path(name, environment)
    known = path.is_file()
    path.unlink(missing_ok=True)
    return known


def remembered(*, environment: Mapping[str, str] = os.environ) -> list[str]:
    """All names that configs are kept under."""
    return sorted(unquote(path.stem) for path in _folder(environment).glob("*.json"))


def _path(name: str, environment: Mapping[str, str]) -> Path:
    """A name may hold a slash; quoted it is one part of a path and cannot leave the folder."""
    if not 0 < len(name) <= 128 or name.startswith("."):
        raise InvalidRequest(f"{name!r:.140} cannot be a model's name.", param="name")
    return _folder(environment) / f"{quote(name, safe='')}.json"


def _folder(environment: Mapping[str, str]) -> Path:
    return default_data_dir(environment) / "shapes"
