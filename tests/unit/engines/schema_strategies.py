"""hypothesis strategies for schemas in the subset, shared by unit and end-to-end tests."""

from hypothesis import strategies as st

_NAMES = st.text(st.sampled_from('abcñ_"\\ /{}'), min_size=1, max_size=6)


def _strings():
    return st.tuples(st.integers(0, 3), st.integers(0, 9)).map(
        lambda bounds: {"type": "string", "minLength": bounds[0], "maxLength": sum(bounds)}
    )


def _integers():
    return st.tuples(st.integers(-2000, 2000), st.integers(0, 3000)).map(
        lambda bounds: {"type": "integer", "minimum": bounds[0], "maximum": sum(bounds)}
    )


def _numbers():
    return st.tuples(st.integers(-300, 300), st.integers(0, 400)).map(
        lambda b: {"type": "number", "minimum": b[0] / 100, "maximum": (b[0] + b[1]) / 100}
    )


def _enums():
    values = st.one_of(st.text(max_size=5), st.integers(-9, 9), st.booleans(), st.none())
    return st.lists(values, min_size=1, max_size=5).map(lambda v: {"enum": v})


def _leaves():
    fixed = st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}])
    return st.one_of(_strings(), _integers(), _numbers(), _enums(), fixed)


def objects(children):
    """Objects with some optional properties."""
    entries = st.dictionaries(_NAMES, st.tuples(children, st.booleans()), max_size=4)
    return entries.map(
        lambda d: {
            "type": "object",
            "properties": {name: value for name, (value, _) in d.items()},
            "required": [name for name, (_, required) in d.items() if required],
            "additionalProperties": False,
        }
    )


def _arrays(children):
    return st.tuples(children, st.integers(0, 2), st.integers(0, 2)).map(
        lambda a: {"type": "array", "items": a[0], "minItems": a[1], "maxItems": a[1] + a[2]}
    )


def schemas():
    """Whole schemas, with an object at the root."""
    nested = st.recursive(
        _leaves(),
        lambda c: st.one_of(
            objects(c), _arrays(c), st.lists(c, min_size=1, max_size=3).map(lambda o: {"anyOf": o})
        ),
        max_leaves=8,
    )
    return objects(nested)


@st.composite
def instances(draw, schema):
    """A value that satisfies a schema of `schemas`, keys in the schema's order."""
    if "anyOf" in schema:
        return draw(instances(draw(st.sampled_from(schema["anyOf"]))))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    match schema["type"]:
        case "object":
            return {
                name: draw(instances(value))
                for name, value in schema["properties"].items()
                if name in schema["required"] or draw(st.booleans())
            }
        case "array":
            n = draw(st.integers(schema["minItems"], schema["maxItems"]))
            return [draw(instances(schema["items"])) for _ in range(n)]
        case "string":
            safe = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\uffff\ufffe")
            return draw(st.text(safe, min_size=schema["minLength"], max_size=schema["maxLength"]))
        case "integer":
            return draw(st.integers(schema["minimum"], schema["maximum"]))
        case "number":
            low, high = round(schema["minimum"] * 100), round(schema["maximum"] * 100)
            return draw(st.integers(low, high)) / 100
        case "boolean":
            return draw(st.booleans())
        case ["integer", "null"]:
            return draw(st.one_of(st.none(), st.integers(-(10**6), 10**6)))
    return None
