"""The file of a job for pipelines: the API's own request, with files by their path, and what a good result is."""

import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.cli.learning import is_file_id
from tunesmith.cli.yaml_lines import LARGEST_BYTES, Lines, NotReadable, Problem, read
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.json_objects import Json

SCHEMA_URL = "https://json-schema.org/draft/2020-12/schema"
_OURS = ("gate", "champion")  # what the service is not told

Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Gate(Value):
    """What the result must reach on its own held-out rows; otherwise the run exits with 6."""

    max_validation_loss: Loss | None = None
    """The highest validation loss that is good enough."""
    min_token_accuracy: Share | None = None
    """The lowest share of held-out tokens that the model must get right, from 0 to 1."""


class JobFile(JobCreate):
    """A fine-tuning job for `tunesmith ci run`."""

    model_config = ConfigDict(title="Job file of `tunesmith ci run`", json_schema_extra={"examples": []})

    training_file: Annotated[str, Field(min_length=1, max_length=4096)]
    """A JSONL file, by its path beside this file, or the id of an uploaded one."""
    validation_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Rows that are only measured on, likewise."""
    gate: Gate = Gate()
    """What the result must reach."""
    champion: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A model that an earlier job made: its validation loss is shown beside the new one's."""


class JobFileRefused(InvalidRequest):
    """The file of the job cannot be used; every problem has its line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class Loaded:
    """A job as a file describes it."""

    path: Path
    text: bytes
    job: JobFile
    lines: Lines

    @property
    def body(self) -> Json:
        """The request as the file has it, without what is not for the service."""
        return {key: value for key, value in self.lines.value.items() if key not in _OURS}

    @property
    def files(self) -> dict[str, Path | str]:
        """By field: a path, or the id of an uploaded file."""
        named = {"training_file": self.job.training_file, "validation_file": self.job.validation_file}
        return {field: self._source(name) for field, name in named.items() if name is not None}

    def _source(self, name: str) -> Path | str:
        path = self.path.parent / name
        return name if is_file_id(name) and not path.exists() else path


def load(path: Path) -> Loaded:
    """Read and check the file and that the files it names are there.

    Raises:
        JobFileRefused: with every problem that was found.
    """
    text = _bytes_of(path)
    try:
        lines = read(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise JobFileRefused([Problem(str(path), text[: error.start].count(b"\n") + 1, "Not UTF-8.")]) from None
    except NotReadable as error:
        raise JobFileRefused([Problem(str(path), error.line, error.message)]) from None
    if not isinstance(lines.value, dict):
        raise JobFileRefused([Problem(str(path), 1, "A job file is a mapping, such as 'model: my-base'.")])
    loaded = Loaded(path, text, _checked(path, lines), lines)
    missing = [
        Problem(str(path), lines.of((field,)), f"{field}: there is no file {source}.")
        for field, source in loaded.files.items()
        if isinstance(source, Path) and not source.is_file()
    ]
    if missing:
        raise JobFileRefused(missing)
    return loaded


def schema() -> Json:
    """The JSON Schema of such a file, for editors."""
    return {"$schema": SCHEMA_URL, **JobFile.model_json_schema()}


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(LARGEST_BYTES + 1)
    if len(text) > LARGEST_BYTES:
        raise JobFileRefused([Problem(str(path), 0, f"A job file has at most {LARGEST_BYTES // 1024} KiB.")])
    return text


def _checked(path: Path, lines: Lines) -> JobFile:
    try:
        job = JobFile.model_validate_json(json.dumps(lines.value), strict=True)
        job.check()
    except ValidationError as error:
        raise JobFileRefused(list(_problems(path, lines, error))) from None
    except InvalidRequest as error:
        line = lines.of(tuple((error.param or "").split(".")))
        raise JobFileRefused([Problem(str(path), line, error.message)]) from None
    return job


def _problems(path: Path, lines: Lines, error: ValidationError) -> Iterator[Problem]:
    """One for each field; what a union of types says about one field is said together."""
    said: dict[tuple[str | int, ...], list[str]] = {}
    for item in error.errors(include_url=False, include_context=False):
        where = _field(item["loc"], lines.value)
        if item["type"] == "extra_forbidden":
            text = _unknown(where)
        elif item["type"] == "missing":
            text = "is missing"
        else:
            text = _lowered(item["msg"])
        said.setdefault(where, []).append(text)
    for where, texts in sorted(said.items(), key=lambda item: lines.of(item[0])):
        text = "; or: ".join(dict.fromkeys(texts))
        yield Problem(
            str(path), lines.of(where), f"{'.'.join(map(str, where))}: {text}{'' if text[-1] in '.?' else '.'}"
        )


def _field(loc: tuple[str | int, ...], value: Any) -> tuple[str | int, ...]:
    """The part of pydantic's location that is in the file: the rest names members of unions. A missing key is last."""
    path: tuple[str | int, ...] = ()
    for number, part in enumerate(loc):
        is_missing = isinstance(value, dict) and number == len(loc) - 1
        if part in _keys(value):
            value = value[part]
        elif not is_missing:
            continue
        path = (*path, part)
    return path


def _keys(value: Any) -> Collection[str | int]:
    if isinstance(value, dict):
        return value.keys()
    return range(len(value)) if isinstance(value, list) else ()


def _unknown(where: tuple[str | int, ...]) -> str:
    known = list(_fields_at(JobFile, [part for part in where[:-1] if isinstance(part, str)]))
    near = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.6)
    return f"unknown; did you mean {near[0]!r}?" if near else f"unknown; known here: {', '.join(known)}"


def _fields_at(model: type[BaseModel], path: list[str]) -> Iterator[str]:
    models = [model]
    for name in path:
        annotations = [found.model_fields[name].annotation for found in models if name in found.model_fields]
        models = [inner for annotation in annotations for inner in _models_in(annotation)]
    for found in models:
        yield from found.model_fields


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _models_in(part)]


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
