"""The OpenAPI document: what FastAPI derives from the routes, completed with what it cannot know."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from tunesmith.service.web.bodies import body_schema
from tunesmith.tuning.api.errors import ErrorAnswer
from tunesmith.tuning.values.json_objects import Json

DESCRIPTION = """The API of a self-hosted fine-tuning service. Files, jobs, events, checkpoints and models have the
shapes of the OpenAI API, so its clients work unchanged; everything else is under `tunesmith`.

Every request carries a key: `Authorization: Bearer KEY`. A key belongs to a project and sees nothing of others; its
role is `reader`, `member` or `admin`. Times are Unix seconds, sizes are bytes. Answers may get new keys, never lose
one.

Lists come newest first in pages: while `has_more`, ask again with `after` set to `last_id`.
"""
TAGS = [
    {"name": "files", "description": "Training files: uploaded, checked line by line, kept with the report."},
    {"name": "fine-tuning jobs", "description": "Jobs from submission to result."},
    {"name": "fine-tuning plans", "description": "What would happen to a job, and how right predictions were."},
    {"name": "evaluations", "description": "Models measured on rows, one beside another, and what the gate says."},
    {"name": "artifacts", "description": "What jobs leave: adapters, models, tokenizers."},
    {"name": "inference", "description": "Asking models, base or tuned, as OpenAI's clients ask."},
    {"name": "models", "description": "Models to start from, and those that jobs made."},
    {"name": "client", "description": "The command of the version that answers, for pipelines."},
    {"name": "webhooks", "description": "Addresses that are told what happened, and what they answered."},
    {"name": "aliases", "description": "Names that stand for models: set, rolled back, with who and why."},
    {"name": "schedules", "description": "Jobs that are made every night, and what became of each."},
    {"name": "workers", "description": "Who trains, on what, and how busy."},
    {"name": "keys and projects", "description": "Who may do what, what projects may have, and who did what when."},
    {"name": "monitoring", "description": "For Prometheus."},
    {"name": "health", "description": "For load balancers. These need no key."},
]
_MEANINGS = {
    400: "The request must change; `param` names the field.",
    401: "No valid key.",
    403: "The key's role does not allow this.",
    404: "No such object, or not one of this project.",
    413: "The body is too large.",
    429: "This key has too many requests open; try again in a moment.",
    500: "A fault of the service; its log holds the details under `x-request-id`.",
    503: "The database or the store of files is away, busy or full; try again in a moment.",
}


class DocumentedApi(FastAPI):
    """An application whose document is complete: every error, every body, one way to authenticate."""

    def openapi(self) -> Json:
        """The document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def error_response(status: int, description: str) -> dict[int | str, Json]:
    """`responses` of a route that answers with an error of its own."""
    return {status: {"model": ErrorAnswer, "description": description}}


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Every operation of a document: method in capitals, path, and what is said of it."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _completed(document: Json) -> Json:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for schema in schemas.values():
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]  # so far these are answers alone: they may grow
    for _method, _path, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            content["schema"] = body_schema(content.get("schema", {}))
        operation["responses"].pop("422", None)  # what FastAPI refuses with 422 is answered with 400
        for status in _errors(operation):
            operation["responses"].setdefault(str(status), _error(status))
        operation["responses"] = dict(sorted(operation["responses"].items()))
    _hoist(document["paths"], schemas)
    return document


def _errors(operation: Json) -> Iterator[int]:
    if "security" in operation:
        yield from (401, 403, 429, 500, 503)
    if "parameters" in operation or "requestBody" in operation:
        yield 400
    kinds = operation.get("requestBody", {}).get("content", {})
    if kinds and "application/octet-stream" not in kinds:  # weights may be of any size
        yield 413
    if not kinds and any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        yield 404


def _error(status: int) -> Json:
    schema = {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}
    return {"description": _MEANINGS[status], "content": {"application/json": {"schema": schema}}}


def _hoist(part: Any, schemas: Json) -> None:
    """Move the definitions that a body's schema brought along to where its references point."""
    if isinstance(part, dict):
        for name, schema in part.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        for inner in part.values():
            _hoist(inner, schemas)
    elif isinstance(part, list):
        for inner in part:
            _hoist(inner, schemas)
