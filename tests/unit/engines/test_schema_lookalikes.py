import json

import pytest

from serve_app.engines.schema import lookalikes

A = {"type": "object", "properties": {"t": {"type": "string"}}, "additionalProperties": False}
B = {"type": "object", "properties": {"u": {"type": "string"}}, "additionalProperties": False}
TEXT = {"type": "string"}


def of(schema, **definitions):
    return json.dumps({"type": "object", "properties": {"x": schema}, "$defs": definitions})


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [A, B]},
        {"anyOf": [{"type": "null"}, A, {"type": "object"}]},
        {"anyOf": [{"anyOf": [TEXT, A]}, B]},
        {"type": "array", "items": {"anyOf": [A, B]}},
        {"anyOf": [{"type": "array", "items": TEXT}, {"type": "array", "items": A}]},
    ],
)
def test_two_that_begin_alike(schema):
    assert lookalikes(of(schema))


@pytest.mark.parametrize(
    "schema",
    [
        TEXT,
        {"anyOf": [TEXT, {"type": "null"}, {"type": "string", "enum": ["a", "b"]}]},
        {"anyOf": [A, {"type": "null"}]},
        {"anyOf": [A, {"type": "array", "items": A}]},
        {"type": "object"},
    ],
)
def test_first_character_tells_them_apart(schema):
    assert not lookalikes(of(schema))


def test_definitions_that_double_at_every_level_take_no_time():
    levels = {f"L{i}": {"anyOf": [{"$ref": f"#/$defs/L{i + 1}"}] * 2 + [TEXT]} for i in range(100)}
    assert not lookalikes(of({"$ref": "#/$defs/L0"}, L100=TEXT, **levels))
