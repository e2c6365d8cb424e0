"""`GET /docs`: the OpenAPI document as one page of HTML, which loads nothing from anywhere."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tunesmith.service.web.openapi import operations
from tunesmith.service.web.pages.front import PAGE_HEADERS
from tunesmith.service.web.pages.schema_text import Piece, limits_of, name_of, pieces_of, without_null
from tunesmith.tuning.values.json_objects import Json

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Field:
    """A line of a table: a parameter, or a property of a body or an answer."""

    name: str
    kind: list[Piece]
    description: str
    limits: str = ""
    is_required: bool = False
    where: str = ""


@dataclass(frozen=True)
class Outcome:
    """A status that an operation answers with."""

    status: str
    description: str
    kind: list[Piece] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)

    @property
    def is_error(self) -> bool:
        """Whether something went wrong."""
        return self.status >= "400"


@dataclass(frozen=True)
class Operation:
    """A route with everything that is known about it."""

    anchor: str
    method: str
    path: str
    title: str
    description: str
    needs_key: bool
    parameters: list[Field]
    body: list[Field]
    outcomes: list[Outcome]
    example: str


@dataclass(frozen=True)
class Section:
    """The operations of one tag."""

    anchor: str
    title: str
    description: str
    operations: list[Operation]


@dataclass(frozen=True)
class Shape:
    """An object that others refer to."""

    name: str
    description: str
    fields: list[Field]


@router.get("/openapi.json")
def openapi(request: Request) -> JSONResponse:
    """The document for programs. Made in a thread the first time, for it takes seconds. It says nothing secret."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
def reference(request: Request) -> HTMLResponse:
    """The page, with examples that name the address it was asked for at."""
    document = request.app.openapi()
    page = _page(json.dumps(document), base_url=str(request.base_url).rstrip("/"))
    return HTMLResponse(page, headers=PAGE_HEADERS)


@lru_cache(maxsize=4)
def _page(document: str, *, base_url: str) -> str:
    return render(json.loads(document), base_url=base_url)


def render(document: Json, *, base_url: str) -> str:
    """The document as HTML. `base_url` is where the examples find the service."""
    schemas = document["components"]["schemas"]
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    environment.filters["prose"] = _prose
    return environment.get_template("reference.html").render(
        info=document["info"],
        sections=list(_sections(document, base_url=base_url)),
        shapes=[_shape(name, schema, schemas) for name, schema in sorted(schemas.items()) if "properties" in schema],
    )


def _sections(document: Json, *, base_url: str) -> Iterator[Section]:
    schemas = document["components"]["schemas"]
    for tag in document["tags"]:
        found = [
            _operation(method, path, operation, schemas=schemas, base_url=base_url)
            for method, path, operation in operations(document)
            if tag["name"] in operation["tags"]
        ]
        yield Section(tag["name"].replace(" ", "-"), tag["name"].capitalize(), tag["description"], found)


def _operation(method: str, path: str, operation: Json, *, schemas: Json, base_url: str) -> Operation:
    title, _, rest = operation["description"].partition(". ")
    body = _body_of(operation)
    return Operation(
        anchor=operation["operationId"],
        method=method,
        path=path,
        title=title.rstrip("."),
        description=rest,
        needs_key="security" in operation,
        parameters=[_parameter(parameter, schemas) for parameter in operation.get("parameters", ())],
        body=list(_fields(body, schemas, is_sent=True)) if body else [],
        outcomes=[_outcome(status, response, schemas) for status, response in operation["responses"].items()],
        example=_curl(method, base_url + path, operation),
    )


def _parameter(parameter: Json, schemas: Json) -> Field:
    schema = parameter["schema"]
    return Field(
        name=parameter["name"],
        kind=pieces_of(without_null(schema), schemas),
        description=parameter["description"],
        limits=limits_of(schema),
        is_required=parameter.get("required", False),
        where=parameter["in"],
    )


def _body_of(operation: Json) -> Json | None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema: Json = content["schema"]
        return schema
    return None


def _outcome(status: str, response: Json, schemas: Json) -> Outcome:
    schema: Json = next((content.get("schema", {}) for content in response.get("content", {}).values()), {})
    description = "" if response["description"] == "Successful Response" else response["description"]
    fields = _fields(schemas[name_of(schema)], schemas) if name_of(schema) in schemas and status < "400" else ()
    return Outcome(status, description, pieces_of(schema, schemas) if schema else [], list(fields))


def _shape(name: str, schema: Json, schemas: Json) -> Shape:
    is_sent = schema.get("additionalProperties") is False  # answers may grow, requests are read strictly
    return Shape(name, schema.get("description", ""), list(_fields(schema, schemas, is_sent=is_sent)))


def _fields(schema: Json, schemas: Json, *, is_sent: bool = False) -> Iterator[Field]:
    for name, part in schema.get("properties", {}).items():
        referred = schemas.get(name_of(part), {})
        yield Field(
            name=name,
            kind=pieces_of(part, schemas),
            description=part.get("description") or referred.get("description", ""),
            limits=limits_of(part) if is_sent else "",
            is_required=is_sent and name in schema.get("required", ()),
        )


def _curl(method: str, url: str, operation: Json) -> str:
    """A command that does it, with words in capitals to replace."""
    words = ["curl", *(["-X", method] if method not in ("GET", "PUT") else [])]
    lines = [" ".join([*words, shlex.quote(re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), url))])]
    if "security" in operation:
        lines.append('-H "Authorization: Bearer $OPENAI_API_KEY"')
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += _sent(kind, content["schema"])
    return " \\\n  ".join(lines)


def _sent(kind: str, schema: Json) -> list[str]:
    if kind == "application/json":
        (example,) = schema["examples"]
        return ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(example))}"]
    if kind == "multipart/form-data":
        return ["-F purpose=fine-tune", "-F file=@FILE"]
    return ["-T FILE"]


def _prose(text: str) -> Markup:
    """Paragraphs, with what stands between backticks as code."""
    paragraphs = [Markup(" ").join(map(escape, part.split())) for part in text.strip().split("\n\n")]
    coded = [re.sub(r"`([^`]+)`", r"<code>\1</code>", str(paragraph)) for paragraph in paragraphs]
    return Markup("".join(f"<p>{paragraph}</p>" for paragraph in coded))  # noqa: S704  escaped above
