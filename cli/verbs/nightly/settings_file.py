"""Reading a file that describes a schedule: JSON, or YAML by its name."""

import json
from pathlib import Path

import typer

from tunesmith.tuning.values.json_objects import Json


def read(path: Path) -> Json:
    """The object in the file.

    Raises:
        typer.BadParameter: it cannot be read as one; with the line where that is known.
    """
    text = path.read_text(encoding="utf-8")
    content = _yaml(text, path) if path.suffix in (".yaml", ".yml") else _json(text, path)
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} holds no object.", param_hint="FILE")
    return content


def _json(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}.", param_hint="FILE") from None


def _yaml(text: str, path: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is not YAML: {error}.", param_hint="FILE") from None
