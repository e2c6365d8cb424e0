"""The OpenAPI document says everything about the public API, and the page made of it loads nothing from elsewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest

from tests.control_plane import ControlPlane
from tunesmith.service.web.pages.reference import render
from tunesmith.service.web.pages.schema_text import limits_of, pieces_of

Json = dict[str, Any]


@pytest.fixture
def document(plane: ControlPlane) -> Json:
    answer = httpx2.get(f"{plane.url}/openapi.json", verify=False, timeout=60)
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.fixture
def page(plane: ControlPlane) -> httpx2.Response:
    answer = httpx2.get(f"{plane.url}/docs", verify=False)
    assert answer.status_code == 200
    return answer


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def parts(value: Any, *, where: str = "") -> Iterator[tuple[str, Json]]:
    """Every object inside a document, with its place."""
    if isinstance(value, dict):
        yield where, value
        for name, inner in value.items():
            yield from parts(inner, where=f"{where}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from parts(inner, where=f"{where}/{number}")


def undescribed(document: Json) -> list[str]:
    """Properties and parameters about which nothing is said, where the object that they are says nothing either."""
    shapes = document["components"]["schemas"]
    found = []
    for where, part in parts(document):
        properties = part.get("properties", {})
        for name, schema in properties.items() if isinstance(properties, dict) else ():
            shape = shapes.get(str(schema.get("$ref", "")).rpartition("/")[2], {})
            if not schema.get("description") and not shape.get("description"):
                found.append(f"{where}: {name}")
        if "in" in part and "schema" in part and not part.get("description"):
            found.append(f"{where}: parameter {part['name']}")
    return found


def test_every_property_and_parameter_has_a_description(document: Json) -> None:
    assert undescribed(document) == []
    del document["components"]["schemas"]["JobObject"]["properties"]["seed"]["description"]
    assert undescribed(document) == ["/components/schemas/JobObject: seed"], "the check itself finds what it is for"


def test_every_reference_leads_to_an_object(document: Json) -> None:
    names = {part["$ref"].rpartition("/")[2] for _, part in parts(document) if "$ref" in part}
    assert names <= document["components"]["schemas"].keys()
    assert {"JobObject", "Plan", "TunesmithOptions", "ErrorAnswer", "CanaryReport"} <= names
    assert not [where for where, part in parts(document) if "$defs" in part]


def test_every_operation_names_its_errors_and_how_to_authenticate(document: Json) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for method, path, operation in operations(document):
        assert "422" not in operation["responses"], (method, path)
        if path in ("/healthz", "/readyz"):
            assert "security" not in operation
            continue
        assert operation["security"] == [{"bearer": []}], (method, path)
        assert {"401", "403", "503"} <= operation["responses"].keys(), (method, path)
        for status, answer in operation["responses"].items():
            if status >= "400" and status != "416":
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (method, path, status)


def test_an_error_is_what_the_document_says_it_is(document: Json, plane: ControlPlane) -> None:
    error = plane.request("GET", "/v1/files?limit=0").json()["error"]
    assert error.keys() == document["components"]["schemas"]["ErrorDetails"]["properties"].keys()


def test_what_workers_say_is_no_part_of_the_public_document(document: Json) -> None:
    assert not [path for path in document["paths"] if path.startswith("/internal")]
    assert "Claim" not in document["components"]["schemas"]


class Loaded(HTMLParser):
    """Everything that a browser would ask for or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
            if name == "id" and value:
                self.anchors.add(value)


def test_the_page_asks_nobody_for_anything(page: httpx2.Response) -> None:
    loaded = Loaded()
    loaded.feed(page.text)
    others = {address for address in loaded.addresses if not address.startswith("#")}
    assert others == {"openapi.json", "data:,"}
    assert not loaded.tags & {"script", "iframe", "img", "object", "embed", "form"}
    assert not re.search(r"url\(|@import", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_page_names_every_route_with_an_example(page: httpx2.Response, document: Json, plane: ControlPlane) -> None:
    for method, path, operation in operations(document):
        article = page.text.split(f'<article id="{operation["operationId"]}">')[1].split("</article>")[0]
        assert f'<span class="method {method}">{method}</span><span class="path">{path}</span>' in article
        assert f"curl{f' -X {method}' if method not in ('GET', 'PUT') else ''} {plane.url}" in article
        for parameter in operation.get("parameters", ()):
            assert f"<code>{parameter['name']}</code>" in article
        for status in operation["responses"]:
            assert status in article


def test_every_link_on_the_page_leads_to_a_place_on_it(page: httpx2.Response) -> None:
    loaded = Loaded()
    loaded.feed(page.text)
    assert {address[1:] for address in loaded.addresses if address.startswith("#")} <= loaded.anchors


def test_text_of_the_document_stays_text(document: Json) -> None:
    document["info"]["description"] = "<script>`<b>`</script>"
    page = render(document, base_url="http://host/'\"><script>")
    assert "<script>" not in page
    assert "&lt;script&gt;<code>&lt;b&gt;</code>" in page


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer"}, "integer"),
        ({"anyOf": [{"type": "number"}, {"type": "integer"}, {"type": "null"}]}, "number or integer or null"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Shape"}}, "list of Shape"),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}]}, "list of integer"),
        ({"type": "array", "items": {}}, "list of any"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "map of string to string"),
        ({"$ref": "#/components/schemas/Word"}, "one or two"),
        ({"const": True, "type": "boolean"}, "true"),
        ({"type": "string", "format": "binary"}, "bytes"),
    ],
)
def test_a_type_is_told_in_words(schema: Json, words: str) -> None:
    shapes = {"Shape": {"properties": {}}, "Word": {"enum": ["one", "two"]}}
    assert "".join(piece.text for piece in pieces_of(schema, shapes)) == words


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"minimum": 1, "maximum": 10_000, "default": 20}, "1 to 10,000, default 20"),
        (
            {"anyOf": [{"const": "auto"}, {"exclusiveMinimum": 0, "maximum": 2}], "default": "auto"},
            "at most 2, above 0, default auto",
        ),
        ({"minimum": 0.0, "maximum": 2147483647.0}, "0 to 2,147,483,647"),
        ({"maxLength": 64}, "at most 64 characters"),
        ({"default": False}, "default false"),
        ({"default": None}, ""),
    ],
)
def test_limits_are_told_in_words(schema: Json, words: str) -> None:
    assert limits_of(schema) == words
