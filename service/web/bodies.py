"""Reading JSON bodies strictly, and saying what is wrong with one in the caller's own words."""

import difflib
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.json_objects import Json

M = TypeVar("M", bound=BaseModel)

_MODEL = "x-model"
_documented: dict[str, type[BaseModel]] = {}


def json_body(model: type[BaseModel], *, strict: bool = True) -> Any:
    """A dependency that reads the body as `model`. Strict: the string "3" is not the number 3."""

    async def read(request: Request) -> BaseModel:
        return parse(model, await request.body(), strict=strict)

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


def parse(model: type[M], raw: bytes, *, strict: bool = True) -> M:
    """Read `raw` as `model`.

    Raises:
        InvalidRequest: with the path of the first wrong field as `param`.
    """
    try:
        return model.model_validate_json(raw or b"{}", strict=strict)
    except ValidationError as error:
        raise _explain(model, error) from None


def _explain(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    details = error.errors(include_url=False, include_context=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The request body is not valid JSON: {first['msg']}.", code=ErrorCode.INVALID_JSON)
    path = _field_path(model, first["loc"])
    param = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return _unknown(model, path)
    if first["type"] == "missing":
        return InvalidRequest(
            f"Missing required parameter: '{param}'.", code=ErrorCode.MISSING_REQUIRED_PARAMETER, param=param
        )
    alternatives = [item["msg"] for item in details if _field_path(model, item["loc"]) == path]
    message = f"Invalid value for {param!r}: {_shown(first['input'])}. {'; or: '.join(dict.fromkeys(alternatives))}."
    return InvalidRequest(
        message,
        code=ErrorCode.INVALID_HYPERPARAMETER if "hyperparameters" in path else ErrorCode.INVALID_VALUE,
        param=param,
    )


def _unknown(model: type[BaseModel], path: list[str]) -> InvalidRequest:
    param = ".".join(path)
    known = list(_fields_at(model, path[:-1]))
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
    hint = f"Did you mean '{'.'.join([*path[:-1], near[0]])}'?" if near else f"Known here: {', '.join(known)}."
    return InvalidRequest(
        f"Unknown parameter: '{param}'. {hint}", code=ErrorCode.UNKNOWN_PARAMETER, param=param, hint=hint
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
    return {found.__name__ for found in _models_at(model, path)}


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
