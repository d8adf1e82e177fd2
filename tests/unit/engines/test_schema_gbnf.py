"""Grammars match what their schema allows, and nothing else."""

import json
import re
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.schema import compile_schema, limits
from serve_app.engines.schema.nodes import Integer, Number
from serve_app.engines.schema.ranges import integer_expression, number_expression
from serve_app.errors import InvalidSchema
from tests.unit.engines.gbnf_regex import expression_to_regex, to_regex
from tests.unit.engines.schema_strategies import instances, schemas


@given(low=st.integers(-3000, 3000), size=st.integers(0, 3000), probe=st.integers(-7000, 7000))
def test_integer_range_matches_exactly_the_integers_in_it(low, size, probe):
    pattern = re.compile(
        expression_to_regex(integer_expression(Integer(minimum=low, maximum=low + size)))
    )
    for value in (low, low + size, low - 1, low + size + 1, probe):
        assert bool(pattern.fullmatch(str(value))) == (low <= value <= low + size), value


@given(low=st.integers(-500, 500), size=st.integers(0, 600), probe=st.integers(-1500, 1500))
def test_number_range_matches_two_decimals_exactly_within_the_bounds(low, size, probe):
    node = Number(minimum=Decimal(low) / 100, maximum=Decimal(low + size) / 100, decimals=2)
    pattern = re.compile(expression_to_regex(number_expression(node)))
    for value in (low, low + size, low - 1, low + size + 1, probe):
        text = f"{Decimal(value) / 100:.2f}"
        assert bool(pattern.fullmatch(text)) == (low <= value <= low + size), text


@given(data=st.data())
def test_conforming_answers_match(data):
    schema = data.draw(schemas())
    value = data.draw(instances(schema))
    jsonschema.validate(value, schema)
    text = _with_two_decimals(value)
    assert to_regex(compile_schema(json.dumps(schema))).fullmatch(text), (schema, text)


def _with_two_decimals(value):
    if isinstance(value, float):
        return f"{value:.2f}".replace("-0.00", "0.00")
    if isinstance(value, dict):
        inner = (
            f"{json.dumps(k, ensure_ascii=False)}:{_with_two_decimals(v)}" for k, v in value.items()
        )
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_with_two_decimals, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("schema", "text", "matches"),
    [
        pytest.param({"type": "string", "maxLength": 2}, '"ab"', True, id="at max length"),
        pytest.param({"type": "string", "maxLength": 2}, '"abc"', False, id="over max length"),
        pytest.param({"type": "string", "minLength": 2}, '"a"', False, id="under min length"),
        pytest.param({"type": "string", "maxLength": 0}, '""', True, id="empty only"),
        pytest.param({"type": "string", "maxLength": 0}, '"a"', False, id="not even one"),
        pytest.param({"type": "string"}, '"a\nb"', False, id="raw control character"),
        pytest.param({"type": "string"}, '"\\u00f1\\n"', True, id="escapes"),
        pytest.param({"type": "string"}, '"\\ud800"', False, id="escaped surrogate"),
        pytest.param({"type": "string"}, '"\\x41"', False, id="no such escape"),
        pytest.param({"enum": ['a"b', "ñ\\"]}, '"a\\"b"', True, id="quoted enum value"),
        pytest.param({"enum": ["a", 1, None, True]}, "null", True, id="mixed enum"),
        pytest.param({"const": 1.5}, "1.5", True, id="const number"),
        pytest.param({"type": "integer"}, "-12", True, id="any integer"),
        pytest.param({"type": "integer"}, "01", False, id="leading zero"),
        pytest.param({"type": "integer", "exclusiveMinimum": 0}, "0", False, id="exclusive"),
        pytest.param({"type": "number"}, "1.", False, id="point without digits"),
        pytest.param({"type": "number"}, "3.25", True, id="any number"),
        pytest.param({"type": "number", "minimum": 0, "maximum": 1}, "0.93", True, id="rate"),
        pytest.param({"type": "number", "minimum": 0, "maximum": 1}, "1.01", False, id="over 1"),
        pytest.param({"type": "number", "maximum": 0.125}, "0.125", True, id="bound decimals"),
        pytest.param({"type": "number", "maximum": 0.125}, "0.126", False, id="over decimals"),
        pytest.param({"type": ["string", "null"]}, "null", True, id="type list"),
        pytest.param(
            {"type": "array", "items": {"type": "null"}, "maxItems": 0}, "[]", True, id="no items"
        ),
        pytest.param(
            {"type": "array", "items": {"type": "null"}, "maxItems": 1},
            "[null]",
            True,
            id="one item",
        ),
        pytest.param(
            {"type": "array", "items": {"type": "null"}, "maxItems": 1},
            "[null,null]",
            False,
            id="two items",
        ),
        pytest.param(
            {"type": "array", "items": {"type": "null"}, "minItems": 2},
            "[null]",
            False,
            id="too few",
        ),
    ],
)
def test_value_of_a_property(schema, text, matches):
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    pattern = to_regex(compile_schema(json.dumps(whole)))
    assert bool(pattern.fullmatch(f'{{"x":{text}}}')) is matches


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        pytest.param("{}", True, id="empty"),
        pytest.param('{"a":[1,{"b":null}],"c":"d"}', True, id="nested"),
        pytest.param('{"a":{"b":{"c":1}}}', False, id="deeper than allowed"),
        pytest.param("[]", False, id="not an object"),
        pytest.param('{"a" :1}', False, id="a space"),
    ],
)
def test_any_object_has_bounded_depth(text, matches, monkeypatch):
    # written out as a regular expression the real depth would be enormous
    monkeypatch.setattr(limits, "ANY_JSON_DEPTH", 2)
    assert bool(to_regex(compile_schema('{"type":"object"}')).fullmatch(text)) is matches


def test_optional_properties_may_be_left_out_anywhere():
    schema = {
        "type": "object",
        "properties": {name: {"type": "null"} for name in "abc"},
        "required": ["b"],
    }
    pattern = to_regex(compile_schema(json.dumps(schema)))
    for keys in ("b", "ab", "bc", "abc"):
        assert pattern.fullmatch("{" + ",".join(f'"{k}":null' for k in keys) + "}"), keys
    for keys in ("", "a", "ac", "ba", "bb"):
        assert not pattern.fullmatch("{" + ",".join(f'"{k}":null' for k in keys) + "}"), keys


def test_shared_definitions_are_compiled_once():
    definitions = {
        f"L{i}": {
            "type": "object",
            "properties": {k: {"$ref": f"#/$defs/L{i + 1}"} for k in "abcdefg"},
        }
        for i in range(6)
    } | {"L6": {"type": "string", "maxLength": 500}}
    gbnf = compile_schema(json.dumps({"$ref": "#/$defs/L0", "$defs": definitions}))
    assert len(gbnf) < 20_000


def test_lengths_that_add_up_are_refused():
    properties = {f"p{i}": {"type": "string", "maxLength": 512 - i} for i in range(60)}
    with pytest.raises(InvalidSchema, match="lower maxLength"):
        compile_schema(json.dumps({"type": "object", "properties": properties}))
