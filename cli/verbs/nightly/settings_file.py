"""Reading a file that describes a schedule: JSON, or YAML by its name."""

import json
from pathlib import Path

import typer

from tunesmith.tuning.values.json_objects import Json

_LARGEST_BYTES = 64 * 1024


def read(path: Path) -> Json:
    """The object in the file.

    Raises:
        typer.BadParameter: it cannot be read as one; with the line where that is known.
    """
    content = _yaml(_text(path), path) if path.suffix in (".yaml", ".yml") else _json(_text(path), path)
    if not isinstance(content, dict):
        raise _refused(f"{path} holds no object.")
    if not isinstance(content.get("job", {}), dict):
        raise _refused(f"{path}: its job is no object.")
    return content


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise _refused(f"{path} has more than {_LARGEST_BYTES // 1024} KiB.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"{path}:{content[: error.start].count(10) + 1}: not UTF-8.") from None


def _json(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{path} is not JSON: {error}.") from None


def _yaml(text: str, path: Path) -> object:
    from tunesmith.cli.yaml_lines import NotReadable, Problem
    from tunesmith.cli.yaml_lines import read as read_yaml

    try:
        return read_yaml(text).value
    except NotReadable as error:
        raise _refused(str(Problem(str(path), error.line, error.message))) from None


def _refused(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="FILE")
