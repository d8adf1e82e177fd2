"""Schemas outside the subset are refused at once, naming the place."""

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from serve_app.engines.schema import compile_schema, parse_schema
from serve_app.engines.schema.nodes import Object
from serve_app.errors import InvalidSchema


def with_property(schema):
    return {"type": "object", "properties": {"x": schema}}


def nested(depth):
    schema = {"type": "null"}
    for _ in range(depth):
        schema = with_property(schema)
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        pytest.param({"type": "string"}, "root must be of type 'object'", id="root"),
        pytest.param(
            with_property({"type": "string", "pattern": "a+"}),
            "#/properties/x.*'pattern'",
            id="pattern",
        ),
        pytest.param(with_property({"type": "string", "format": "date"}), "'format'", id="format"),
        pytest.param(
            with_property({"type": "string", "maxLength": 513}), "up to 512", id="maxLength"
        ),
        pytest.param(
            with_property({"type": "string", "minLength": 10**8}), "up to 512", id="minLength bomb"
        ),
        pytest.param(
            with_property({"type": "string", "maxLength": True}),
            "whole number",
            id="boolean length",
        ),
        pytest.param(
            with_property({"type": "string", "minLength": 3, "maxLength": 2}),
            "larger",
            id="empty range",
        ),
        pytest.param(with_property({"type": "array"}), "needs 'items'", id="array without items"),
        pytest.param(
            with_property({"type": "array", "items": {"type": "null"}, "maxItems": 10**6}),
            "up to 512",
            id="maxItems",
        ),
        pytest.param(
            with_property({"$ref": "https://example.com/s.json"}),
            r"allowed: '#/\$defs/NAME'",
            id="remote ref",
        ),
        pytest.param(with_property({"$ref": "#"}), "allowed", id="ref to the root"),
        pytest.param(with_property({"$ref": "#/$defs/A"}), "no definition", id="dangling ref"),
        pytest.param(
            {"$ref": "#/$defs/A", "$defs": {"A": with_property({"$ref": "#/$defs/A"})}},
            "refers to itself",
            id="cyclic ref",
        ),
        pytest.param(nested(9), "nested 8 deep", id="depth 9"),
        pytest.param(
            {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(65)}},
            "more than 64 properties",
            id="65 properties",
        ),
        pytest.param(
            {"type": "object", "additionalProperties": {"type": "null"}, "properties": {}},
            "name every property",
            id="map",
        ),
        pytest.param(
            {"type": "object", "properties": {}, "required": ["a"]},
            "not among the properties",
            id="unknown required",
        ),
        pytest.param(
            with_property({"type": "integer", "minimum": 3, "maximum": 2}),
            "no integer",
            id="no integer",
        ),
        pytest.param(
            with_property({"type": "integer", "minimum": 0.2, "maximum": 0.8}),
            "no integer",
            id="none between",
        ),
        pytest.param(
            with_property({"type": "number", "minimum": 1e300}), "10\\^15", id="huge bound"
        ),
        pytest.param(
            with_property({"type": "integer", "multipleOf": 2}), "'multipleOf'", id="multipleOf"
        ),
        pytest.param(with_property({"enum": []}), "at least one", id="empty enum"),
        pytest.param(with_property({"enum": [[1]]}), "must be strings", id="enum of lists"),
        pytest.param(
            with_property({"type": "string", "enum": [1]}),
            "is not of type",
            id="enum of another type",
        ),
        pytest.param(
            with_property({"enum": list(range(513))}), "more than 512 enum", id="513 values"
        ),
        pytest.param(with_property({"oneOf": [{"type": "null"}]}), "type is None", id="oneOf"),
        pytest.param(with_property({"type": "strnig"}), "allowed: .*'string'", id="unknown type"),
        pytest.param(with_property(True), "must be an object", id="boolean schema"),
        pytest.param(with_property({"anyOf": [], "title": "x"}), "at least one", id="empty anyOf"),
        pytest.param(
            with_property({"anyOf": [{"type": "null"}], "type": "null"}),
            "cannot be combined",
            id="anyOf and type",
        ),
    ],
)
def test_refused_with_the_place_and_what_is_allowed(schema, message):
    with pytest.raises(InvalidSchema, match=message):
        compile_schema(json.dumps(schema))


def _billion_laughs():
    definitions = {
        f"L{i}": {"anyOf": [{"$ref": f"#/$defs/L{i + 1}"} for _ in range(9)]} for i in range(40)
    } | {"L40": {"type": "string", "maxLength": 500}}
    return json.dumps({**with_property({"$ref": "#/$defs/L0"}), "$defs": definitions})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 16_000, id="nested lists"),
        pytest.param('{"anyOf":[' * 1600, id="unclosed"),
        pytest.param(
            '{"type":"object","properties":' * 500 + "{}" + "}" * 500, id="nested objects"
        ),
        pytest.param('{"allOf":[' * 1400 + "{}" + "]}" * 1400, id="nested allOf"),
        pytest.param(_billion_laughs()[:6000], id="cut laughs"),
        pytest.param(
            json.dumps(with_property({"type": "string", "title": "x" * 17_000})), id="17 KiB"
        ),
        pytest.param('{"type":"object","type":"string"}', id="key twice"),
        pytest.param(
            '{"type":"object","properties":{"x":{"minimum":NaN,"type":"number"}}}', id="NaN"
        ),
        pytest.param(
            '{"type":"object","properties":{"x":{"maximum":1e99999999999999999999,"type":"number"}}}',
            id="huge exponent",
        ),
        pytest.param(
            '{"type":"object","properties":{"x":{"maximum":' + "9" * 5000 + ',"type":"number"}}}',
            id="long integer",
        ),
        pytest.param(
            '{"type":"object","properties":{"x":{"maximum":1e-99999,"type":"number"}}}',
            id="tiny exponent",
        ),
        pytest.param("\ud800", id="surrogate"),
        pytest.param("", id="empty"),
    ],
)
def test_bombs_are_refused_within_100_ms(text):
    started = time.process_time()
    with pytest.raises(InvalidSchema):
        compile_schema(text)
    assert time.process_time() - started < 0.1


def test_exponential_sharing_stays_small():
    text = _billion_laughs()
    assert len(text) > 8000
    started = time.process_time()
    gbnf = compile_schema(text)
    assert time.process_time() - started < 0.5
    assert len(gbnf) < 100_000


_KEYWORDS = ["type", "properties", "items", "enum", "$ref", "$defs", "required", "anyOf"]
_KEYWORDS += ["maxLength", "minimum", "a", "const", "additionalProperties"]


@settings(max_examples=200)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.sampled_from(["object", "string", "#/$defs/a", "integer", ""]),
        ),
        lambda c: st.one_of(
            st.lists(c, max_size=3),
            st.dictionaries(
                st.sampled_from(_KEYWORDS),
                c,
                max_size=4,
            ),
        ),
        max_leaves=20,
    )
)
def test_any_json_is_parsed_or_refused(schema):
    with contextlib.suppress(InvalidSchema):
        assert compile_schema(json.dumps(schema)).startswith("root ::= ")


class Inner(BaseModel):
    kind: str = Field(max_length=10)
    score: float = Field(ge=0, le=1)


class Outer(BaseModel):
    """What a client of the OpenAI SDK would write."""

    inner: Inner
    others: list[Inner] = Field(max_length=3)
    note: str | None = None
    count: int = Field(gt=0, lt=10)


def test_pydantic_models_are_in_the_subset():
    node = parse_schema(json.dumps(Outer.model_json_schema()))
    assert isinstance(node, Object)
    assert [entry.name for entry in node.properties] == ["inner", "others", "note", "count"]


def test_openai_strict_schemas_are_in_the_subset():
    from openai.lib._pydantic import to_strict_json_schema

    compile_schema(json.dumps(to_strict_json_schema(Outer)))
