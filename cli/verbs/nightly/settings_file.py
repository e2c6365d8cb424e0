"""Files that commands of schedules are given: settings in JSON, or in YAML by the name, and numbers of a verdict."""

import json
from pathlib import Path

import typer

from tunesmith.tuning.values.json_objects import Json

_LARGEST_BYTES = 64 * 1024


def read(path: Path) -> Json:
    """The object in a file of settings.

    Raises:
        typer.BadParameter: it cannot be read as one; with the line where that is known.
    """
    text = _text(path, "FILE")
    content = _yaml(text, path) if path.suffix in (".yaml", ".yml") else _json(text, path, "FILE")
    settings = _object(content, path, "FILE")
    if not isinstance(settings.get("job", {}), dict):
        raise typer.BadParameter(f"{path}: its job is no object.", param_hint="FILE")
    return settings


def read_numbers(path: Path) -> Json:
    """The JSON object in the file of a verdict's numbers.

    Raises:
        typer.BadParameter: it cannot be read as one.
    """
    hint = "--numbers"
    return _object(_json(_text(path, hint), path, hint), path, hint)


def _text(path: Path, param_hint: str) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise typer.BadParameter(f"{path} has more than {_LARGEST_BYTES // 1024} KiB.", param_hint=param_hint)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"{path}:{content[: error.start].count(10) + 1}"
        raise typer.BadParameter(f"{place}: not UTF-8.", param_hint=param_hint) from None


def _object(content: object, path: Path, param_hint: str) -> Json:
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} holds no object.", param_hint=param_hint)
    return content


def _json(text: str, path: Path, param_hint: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}.", param_hint=param_hint) from None


def _yaml(text: str, path: Path) -> object:
    from tunesmith.cli.yaml_lines import NotReadable, Problem
    from tunesmith.cli.yaml_lines import read as read_yaml

    try:
        return read_yaml(text).value
    except NotReadable as error:
        problem = str(Problem(str(path), error.line, error.message))
        raise typer.BadParameter(problem, param_hint="FILE") from None
