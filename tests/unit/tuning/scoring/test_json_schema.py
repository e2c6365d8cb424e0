"""The part of JSON Schema that is checked says what the whole says."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tuning.scoring.json_schema import JsonSchema, UnusableSchema

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0]), st.sampled_from(["", "a", "bb"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=4,
)
LEAVES = st.sampled_from(
    [
        True, False, {}, {"type": "integer"}, {"type": ["string", "null"]}, {"type": "number"}, {"const": 1},
        {"enum": ["a", 2, None, True]}, {"minimum": 1}, {"exclusiveMaximum": 2}, {"multipleOf": 0.5},
        {"minLength": 1}, {"maxLength": 1}, {"pattern": "^a"}, {"minItems": 1}, {"maxItems": 2},
        {"uniqueItems": True}, {"required": ["a"]}, {"minProperties": 1}, {"maxProperties": 1}, {"$ref": "#"},
    ]
)  # fmt: skip


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        st.builds(lambda part: {"properties": {"a": part}, "additionalProperties": False}, inner),
        st.builds(lambda part, rest: {"prefixItems": [part], "items": rest}, inner, inner),
        st.builds(lambda parts: {"anyOf": parts}, lists),
        st.builds(lambda parts: {"oneOf": parts}, lists),
        st.builds(lambda parts: {"allOf": parts}, lists),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda part: {"contains": part}, inner),
        st.builds(lambda part: {"propertyNames": part}, inner),
        st.builds(lambda one, two, three: {"if": one, "then": two, "else": three}, inner, inner, inner),
    )


@given(st.recursive(LEAVES.filter(lambda leaf: leaf != {"$ref": "#"}), grown, max_leaves=4), VALUES)
def test_a_schema_accepts_what_the_reference_implementation_accepts(schema: Any, value: Any) -> None:
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert JsonSchema(schema).accepts(value) is expected


def test_a_schema_may_refer_to_its_own_parts_and_to_itself() -> None:
    tree = JsonSchema(
        {
            "$ref": "#/$defs/node",
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        }
    )
    assert tree.accepts({"next": {"next": {}}})
    assert not tree.accepts({"next": {"next": 1}})
    assert not JsonSchema({"$ref": "#"}).accepts(1), "a circle that leads nowhere ends"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("object", "#: a schema is an object"),
        ({"type": "text"}, "#/type: a type is one of"),
        ({"properties": {"a": {"minimum": "1"}}}, "#/properties/a/minimum: it must be a number"),
        ({"patternProperties": {}}, "'patternProperties' is not checked here"),
        ({"required": "name"}, "#/required: it must be a list of names"),
        ({"$ref": "https://example.com/schema"}, r"only a place within the schema"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"items": {"pattern": "("}}, "#/items/pattern"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: Any, reason: str) -> None:
    with pytest.raises(UnusableSchema, match=reason):
        JsonSchema(schema)
