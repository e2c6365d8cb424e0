"""Reading JSON bodies strictly, and saying what is wrong with one in the caller's own words."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.json_objects import Json

M = TypeVar("M", bound=BaseModel)

MOST_ELEMENTS = 2_000  # of a body that a person writes: ten times what the longest sensible one has
MOST_LISTED_ELEMENTS = 60_000  # of one that lists files or points
_MOST_ERRORS = 500  # beyond that, making the list of them would hold up every other request
_LONGEST_SHOWN = 80  # characters of a wrong value
_PYTHONS = re.compile(r" after validation|, not more$")  # what the library says of itself
_LONGEST_NAME = 64  # that is shown of an unknown field
_MODEL = "x-model"
_documented: dict[str, type[BaseModel]] = {}


def json_body(model: type[BaseModel], *, strict: bool = True, most_elements: int = MOST_ELEMENTS) -> Any:
    """A dependency that reads the body as `model`. Strict: the string "3" is not the number 3."""

    async def read(request: Request) -> BaseModel:
        return parse(model, await request.body(), strict=strict, most_elements=most_elements)

    return Depends(read)


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body with `json_body`.

    It holds the model's name alone, because schemas take longer to make than all else that a process imports;
    `service.web.openapi` asks `body_schema` for the rest.
    """
    _documented[model.__name__] = model
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {_MODEL: model.__name__}}}}}


def body_schema(named: Json) -> Json:
    """The schema that `documented` put off, with what it refers to under `$defs`; any other as it is."""
    if _MODEL not in named:
        return named
    return _documented[named[_MODEL]].model_json_schema(ref_template="#/components/schemas/{model}")


def parse(model: type[M], raw: bytes, *, strict: bool = True, most_elements: int = MOST_ELEMENTS) -> M:
    """Read `raw` as `model`. What is too much or unknown is refused before any value is looked at.

    Raises:
        InvalidRequest: with the path of the first unknown, or else of the first wrong field as `param`.
    """
    raw = raw or b"{}"
    _refuse_too_much(model, raw, most_elements=most_elements)
    try:
        return model.model_validate_json(raw, strict=strict)
    except ValidationError as error:
        raise _explain(model, error) from None


def _refuse_too_much(model: type[BaseModel], raw: bytes, *, most_elements: int) -> None:
    try:
        value = from_json(raw)
    except ValueError:
        return  # validation says where it is no JSON
    if _most_possible(raw) > most_elements and _has_more_elements(value, most_elements):
        message = f"The request body has more than {most_elements:,} values."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, hint="Send fewer, in several requests.")
    if path := _first_unknown([model], value):
        raise _unknown(model, path)


def _most_possible(raw: bytes) -> int:
    """Elements that JSON of these bytes can have, without looking at each."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _has_more_elements(value: Any, most: int) -> bool:
    waiting, seen = [value], 0
    while waiting and seen <= most:
        part = waiting.pop()
        if isinstance(part, dict | list):
            seen += len(part)
            waiting.extend(part.values() if isinstance(part, dict) else part)
    return seen > most


def _first_unknown(models: list[type[BaseModel]], value: Any) -> list[str]:
    """The path of the first key in `value` that none of the models knows; empty when all are known."""
    if not models:
        return []
    if isinstance(value, list):
        return _first_of((str(place), _first_unknown(models, item)) for place, item in enumerate(value))
    if not isinstance(value, dict) or any(m.model_config.get("extra") != "forbid" for m in models):
        return []
    annotations = _annotations(models)
    unknown = next((name for name in value if name not in annotations), None)
    if unknown is not None:
        return [unknown]
    inner = ((name, _first_unknown(_listed_models(annotations[name]), part)) for name, part in value.items())
    return _first_of(inner)


def _first_of(found: Iterable[tuple[str, list[str]]]) -> list[str]:
    return next(([name, *path] for name, path in found if path), [])


def _annotations(models: list[type[BaseModel]]) -> dict[str, list[Any]]:
    annotations: dict[str, list[Any]] = {}
    for model in models:
        for name, info in model.model_fields.items():
            annotations.setdefault(info.alias or name, []).append(info.annotation)
    return annotations


def _listed_models(annotations: list[Any]) -> list[type[BaseModel]]:
    """The models that an object, or a list of objects, under these annotations may be of."""
    return [] if any(map(_is_mapping, annotations)) else [inner for part in annotations for inner in _models_in(part)]


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _explain(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    if error.error_count() > _MOST_ERRORS:
        message = f"The request body has {error.error_count():,} wrong values."
        return InvalidRequest(message, code=ErrorCode.INVALID_VALUE, hint="Compare it with /docs.")
    details = error.errors(include_url=False, include_context=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The request body is not valid JSON: {first['msg']}.", code=ErrorCode.INVALID_JSON)
    path = _field_path(model, first["loc"])
    param = ".".join(path) or None
    if param is None and first["type"] in ("model_type", "model_attributes_type"):
        message = f"The request body must be a JSON object, not {_shown(first['input'])}."
        return InvalidRequest(message, code=ErrorCode.INVALID_VALUE)
    if first["type"] == "extra_forbidden":
        return _unknown(model, path)
    if first["type"] == "missing":
        return InvalidRequest(
            f"Missing required parameter: '{param}'.", code=ErrorCode.MISSING_REQUIRED_PARAMETER, param=param
        )
    said = [_plain(item["msg"]) for item in details if _field_path(model, item["loc"]) == path]
    what = f"Invalid value for {param!r}" if param else "Invalid request body"
    message = f"{what}: {_shown(first['input'])}. {'; or: '.join(dict.fromkeys(said))}."
    return InvalidRequest(
        message,
        code=ErrorCode.INVALID_HYPERPARAMETER if "hyperparameters" in path else ErrorCode.INVALID_VALUE,
        param=param,
    )


def _unknown(model: type[BaseModel], path: list[str]) -> InvalidRequest:
    path = [*path[:-1], path[-1][:_LONGEST_NAME]]
    param = ".".join(path)
    known = list(_fields_at(model, path[:-1]))
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
    hint = f"Did you mean '{'.'.join([*path[:-1], near[0]])}'?" if near else f"Known here: {', '.join(known)}."
    return InvalidRequest(
        f"Unknown parameter: '{param}'. {hint}", code=ErrorCode.UNKNOWN_PARAMETER, param=param, hint=hint
    )


def _plain(message: str) -> str:
    """In the words of JSON."""
    return _PYTHONS.sub("", message).replace("Dictionary", "Object").replace("Tuple", "List")


def _shown(value: Any) -> str:
    """As the request has it."""
    text = to_json(value, inf_nan_mode="constants", fallback=repr).decode()
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _field_path(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The part of pydantic's location that names fields: the rest names members of unions. An unknown field is last."""
    path: list[str] = []
    for part in loc:
        fields = list(_fields_at(model, path))
        if isinstance(part, str) and fields and part not in fields and part in _union_tags(model, path):
            continue
        if not fields and isinstance(part, str):
            break  # a plain value: what follows is the name of a constraint or of a union's member
        path.append(str(part))
    return path


def _union_tags(model: type[BaseModel], path: list[str]) -> set[str]:
    """What pydantic calls the members of a union there: by their classes, or by the words that tell them apart."""
    members = _models_at(model, path)
    annotations = [info.annotation for found in members for info in found.model_fields.values()]
    words = {word for annotation in annotations if get_origin(annotation) is Literal for word in get_args(annotation)}
    return {found.__name__ for found in members} | words


def _fields_at(model: type[BaseModel], path: list[str]) -> Iterator[str]:
    for found in _models_at(model, path):
        yield from (info.alias or name for name, info in found.model_fields.items())


def _models_at(model: type[BaseModel], path: list[str]) -> list[type[BaseModel]]:
    models = [model]
    for name in path:
        if name.isdigit():
            continue
        annotations = [found.model_fields[name].annotation for found in models if name in found.model_fields]
        models = [inner for annotation in annotations for inner in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _models_in(part)]
