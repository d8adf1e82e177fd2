"""Reading the parts of a schema that contain no other schema, and refusing what is wrong."""

import json
from decimal import Decimal
from typing import Any, NoReturn

from serve_app.engines.schema import limits
from serve_app.engines.schema.nodes import Choice, Integer, Node, Number, Text
from serve_app.errors import InvalidSchema

PARAM = "response_format"
"""Request field that schemas come in."""
NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, Decimal),
    "boolean": (bool,),
    "null": (type(None),),
}


def fail(path: str, message: str) -> NoReturn:
    """Refuse the schema at a path."""
    raise InvalidSchema(f"schema at {path[:200]}: {message}", PARAM)


def read_string(schema: dict[str, Any], path: str, _depth: int) -> Node:
    """Read a `string`."""
    low, high = length_bounds(schema, path, "minLength", "maxLength")
    return Text(min_length=low, max_length=high)


def read_integer(schema: dict[str, Any], path: str, _depth: int) -> Node:
    """Read an `integer`."""
    low, high = _number_bounds(schema, path, step=Decimal(1))
    node = Integer(
        minimum=None if low is None else int(low.to_integral_value(rounding="ROUND_CEILING")),
        maximum=None if high is None else int(high.to_integral_value(rounding="ROUND_FLOOR")),
    )
    if node.minimum is not None and node.maximum is not None and node.minimum > node.maximum:
        fail(path, "no integer lies between the bounds")
    return node


def read_number(schema: dict[str, Any], path: str, _depth: int) -> Node:
    """Read a `number`."""
    given = [value for key in NUMBER_KEYWORDS if (value := schema.get(key)) is not None]
    if not given:
        return Number(decimals=limits.MAX_DECIMALS)
    decimals = max([limits.MIN_DECIMALS, *(_n_decimals(value, path) for value in given)])
    low, high = _number_bounds(schema, path, step=Decimal(1).scaleb(-decimals))
    if low is not None and high is not None and low > high:
        fail(path, "no number lies between the bounds")
    return Number(minimum=low, maximum=high, decimals=decimals)


def _number_bounds(
    schema: dict[str, Any], path: str, *, step: Decimal
) -> tuple[Decimal | None, Decimal | None]:
    found: dict[str, Decimal] = {}
    for key in NUMBER_KEYWORDS & set(schema):
        value: object = schema[key]
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            fail(f"{path}/{key}", f"must be a number, not {show(value)}")
        number = Decimal(value)
        if abs(number) > limits.MAX_MAGNITUDE:
            fail(f"{path}/{key}", f"is {show(value)}; allowed: up to 10^15 in size")
        found[key] = number
    lows = [found[key] for key in ("minimum",) if key in found]
    highs = [found[key] for key in ("maximum",) if key in found]
    if "exclusiveMinimum" in found:
        lows.append(_above(found["exclusiveMinimum"], step))
    if "exclusiveMaximum" in found:
        highs.append(-_above(-found["exclusiveMaximum"], step))
    return max(lows, default=None), min(highs, default=None)


def _above(value: Decimal, step: Decimal) -> Decimal:
    # The smallest multiple of `step` that is greater than `value`.
    return ((value / step).to_integral_value(rounding="ROUND_FLOOR") + 1) * step


def _n_decimals(value: Any, path: str) -> int:
    if not isinstance(value, Decimal):
        return 0
    exponent = value.normalize().as_tuple().exponent
    n = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    if n > limits.MAX_DECIMALS:
        fail(path, f"bounds may have {limits.MAX_DECIMALS} decimals, {show(value)} has {n}")
    return n


def read_choice(schema: dict[str, Any], keywords: set[str], path: str) -> Choice:
    """Read `enum` or `const`."""
    if others := sorted(keywords - {"type", "enum", "const"}):
        fail(path, f"'enum' and 'const' cannot be combined with {others}")
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(values, list) or not values:
        fail(path, "'enum' must be a list with at least one value")
    if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
        fail(path, "'const' is not among the values of 'enum'")
    types = schema.get("type")
    names = types if isinstance(types, list) else [types]
    for value in values:
        if isinstance(value, dict | list):
            fail(path, "enum values must be strings, numbers, booleans or null")
        if types is not None and not any(_is_type(value, name) for name in names):
            fail(path, f"the value {show(value)} is not of type {types!r}")
    return Choice(values=tuple(dict.fromkeys(_dump(value) for value in values)))


def length_bounds(schema: dict[str, Any], path: str, low: str, high: str) -> tuple[int, int | None]:
    """Return the bounds of a length, given the names of the two keywords."""
    least = _length(schema.get(low, 0), f"{path}/{low}")
    if high not in schema:
        return least, None
    most = _length(schema[high], f"{path}/{high}")
    if least > most:
        fail(path, f"{low} is larger than {high}")
    return least, most


def _length(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        fail(path, f"must be a whole number from 0, not {show(value)}")
    if value > limits.MAX_LENGTH:
        fail(path, f"is {show(value)}; allowed: up to {limits.MAX_LENGTH}")
    return value


def _is_type(value: object, name: object) -> bool:
    types = _PYTHON_TYPES.get(name) if isinstance(name, str) else None
    if types is None or (isinstance(value, bool) and name != "boolean"):
        return False
    return isinstance(value, types)


def _dump(value: str | int | Decimal | bool | None) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def show(value: object) -> str:
    """Return a value for a message, cut if it is long."""
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else text[:57] + "..."
