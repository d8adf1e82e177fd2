"""Reading a JSON schema, strictly: what is not understood is refused, never ignored.

A keyword that is skipped silently promises the client something that the answer does not keep.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

from serve_app.engines.schema import limits
from serve_app.engines.schema.nodes import (
    AnyObject,
    AnyOf,
    Array,
    Choice,
    Integer,
    Node,
    Number,
    Object,
    Property,
    Text,
)
from serve_app.errors import InvalidSchema

_PARAM = "response_format"
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)
_NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": _NUMBER_KEYWORDS,
    "number": _NUMBER_KEYWORDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_COMBINING = frozenset({"type", "enum", "const", "anyOf", "allOf", "$ref"})
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, Decimal),
    "boolean": (bool,),
    "null": (type(None),),
}


def parse_schema(text: str) -> Object | AnyObject:
    """Read and check a schema.

    Args:
        text: JSON text of a schema whose root is an object.

    Raises:
        InvalidSchema: Naming the place and what is allowed there.
    """
    n_bytes = len(text.encode("utf-8", "replace"))
    if n_bytes > limits.MAX_SCHEMA_BYTES:
        raise InvalidSchema(
            f"the schema has {n_bytes} bytes; allowed: {limits.MAX_SCHEMA_BYTES}", _PARAM
        )
    try:
        schema = json.loads(
            text,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidSchema(f"the schema is not valid JSON: {error}", _PARAM) from error
    try:
        node = _Reader(schema).read(schema, "#", depth=0)
    except RecursionError as error:
        raise InvalidSchema("the schema is nested too deeply", _PARAM) from error
    if not isinstance(node, Object | AnyObject):
        _fail("#", "the root must be of type 'object'")
    return node


class _Reader:
    """Reads one schema document; counts what the limits bound."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._definitions: dict[str, Node] = {}
        self._open: set[str] = set()
        self._n_properties = 0
        self._n_values = 0
        self._heights: dict[int, int] = {}
        """Nesting below a node, by its id; the definitions keep shared nodes alive."""

    def read(self, schema: Any, path: str, depth: int) -> Node:
        if not isinstance(schema, dict):
            _fail(path, f"a schema must be an object, not {_show(schema)}")
        if depth > limits.MAX_DEPTH:
            _fail(path, f"objects and arrays may be nested {limits.MAX_DEPTH} deep")
        keywords = set(schema) - _ANNOTATIONS
        for one, read in (("$ref", self._ref), ("anyOf", self._any_of), ("allOf", self._all_of)):
            if one in keywords:
                if others := sorted(keywords - {one}):
                    _fail(path, f"{one!r} cannot be combined with {others}")
                return read(schema[one], path, depth)
        if "enum" in keywords or "const" in keywords:
            return self._choice(schema, keywords, path)
        return self._typed(schema, keywords, path, depth)

    def _typed(self, schema: dict[str, Any], keywords: set[str], path: str, depth: int) -> Node:
        types = schema.get("type")
        listed = types if isinstance(types, list) else [types]
        names = [name for name in listed if isinstance(name, str) and name in _KEYWORDS]
        if not names or names != listed:
            _fail(path, f"type is {_show(types)}; allowed: {sorted(_KEYWORDS)}")
        if len(set(names)) != len(names):
            _fail(path, f"type names one twice: {names}")
        allowed = frozenset[str]().union(*(_KEYWORDS[name] for name in names))
        if unknown := sorted(keywords - allowed - {"type"}):
            _fail(
                path,
                f"keyword {unknown[0]!r} is not supported for type {types!r}; "
                f"allowed: {sorted(allowed | _COMBINING)}",
            )
        readers: dict[str, Callable[[dict[str, Any], str, int], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _integer,
            "number": _number,
            "boolean": lambda *_: Choice(values=("true", "false")),
            "null": lambda *_: Choice(values=("null",)),
        }
        return _one_of([readers[name](schema, path, depth) for name in names])

    def _object(self, schema: dict[str, Any], path: str, depth: int) -> Node:
        extra = schema.get("additionalProperties", False)
        if "properties" not in schema and extra in (False, True) and "required" not in schema:
            if "additionalProperties" in schema and extra is False:
                return Object(properties=())
            return AnyObject()
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            _fail(f"{path}/properties", f"must be an object, not {_show(properties)}")
        if extra not in (False, True):
            _fail(f"{path}/additionalProperties", "only false is supported: name every property")
        self._n_properties += len(properties)
        if self._n_properties > limits.MAX_PROPERTIES:
            _fail(path, f"more than {limits.MAX_PROPERTIES} properties in the whole schema")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            _fail(f"{path}/required", "must be a list of property names")
        if unknown := sorted(set(required) - set(properties)):
            _fail(f"{path}/required", f"{unknown[0]!r} is not among the properties")
        entries = []
        for name, value in properties.items():
            if len(name) > limits.MAX_NAME_CHARS:
                _fail(path, f"a property name has more than {limits.MAX_NAME_CHARS} characters")
            node = self.read(value, f"{path}/properties/{name}", depth + 1)
            entries.append(Property(name=name, value=node, required=name in required))
        return Object(properties=tuple(entries))

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> Node:
        if "items" not in schema:
            _fail(path, "an array needs 'items'")
        low, high = _bounds(schema, path, "minItems", "maxItems")
        items = self.read(schema["items"], f"{path}/items", depth + 1)
        return Array(items=items, min_items=low, max_items=high)

    def _choice(self, schema: dict[str, Any], keywords: set[str], path: str) -> Node:
        if others := sorted(keywords - {"type", "enum", "const"}):
            _fail(path, f"'enum' and 'const' cannot be combined with {others}")
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list) or not values:
            _fail(path, "'enum' must be a list with at least one value")
        if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
            _fail(path, "'const' is not among the values of 'enum'")
        self._n_values += len(values)
        if self._n_values > limits.MAX_ENUM_VALUES:
            _fail(path, f"more than {limits.MAX_ENUM_VALUES} enum values in the whole schema")
        types = schema.get("type")
        names = types if isinstance(types, list) else [types]
        for value in values:
            if isinstance(value, dict | list):
                _fail(path, "enum values must be strings, numbers, booleans or null")
            if types is not None and not any(_is_type(value, name) for name in names):
                _fail(path, f"the value {_show(value)} is not of type {types!r}")
        return Choice(values=tuple(dict.fromkeys(_dump(value) for value in values)))

    def _any_of(self, options: Any, path: str, depth: int) -> Node:
        if not isinstance(options, list) or not options:
            _fail(path, "'anyOf' must be a list with at least one schema")
        return _one_of(
            [self.read(option, f"{path}/anyOf/{i}", depth) for i, option in enumerate(options)]
        )

    def _all_of(self, options: Any, path: str, depth: int) -> Node:
        if not isinstance(options, list) or len(options) != 1:
            _fail(path, "'allOf' is supported with exactly one schema")
        return self.read(options[0], f"{path}/allOf/0", depth)

    def _ref(self, reference: Any, path: str, depth: int) -> Node:
        parts = reference.split("/") if isinstance(reference, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
            _fail(path, f"$ref is {_show(reference)}; allowed: '#/$defs/NAME'")
        if reference in self._open:
            _fail(path, f"$ref {reference!r} refers to itself; recursion is not supported")
        if reference not in self._definitions:
            section = self._root.get(parts[1])
            name = parts[2].replace("~1", "/").replace("~0", "~")
            if not isinstance(section, dict) or name not in section:
                _fail(path, f"$ref {reference!r} has no definition")
            self._open.add(reference)
            node = self.read(section[name], reference, depth)
            self._open.discard(reference)
            self._definitions[reference] = node
        # A definition is read once, at the depth of its first use; later uses may lie deeper.
        node = self._definitions[reference]
        if depth + self._height(node) > limits.MAX_DEPTH:
            _fail(path, f"objects and arrays may be nested {limits.MAX_DEPTH} deep")
        return node

    def _height(self, node: Node) -> int:
        known = self._heights.get(id(node))
        if known is None:
            below = [self._height(child) for child in _children(node)]
            known = max(below, default=0) + isinstance(node, Object | Array)
            self._heights[id(node)] = known
        return known


def _string(schema: dict[str, Any], path: str, _depth: int) -> Node:
    low, high = _bounds(schema, path, "minLength", "maxLength")
    return Text(min_length=low, max_length=high)


def _integer(schema: dict[str, Any], path: str, _depth: int) -> Node:
    low, high = _number_bounds(schema, path, step=Decimal(1))
    node = Integer(
        minimum=None if low is None else int(low.to_integral_value(rounding="ROUND_CEILING")),
        maximum=None if high is None else int(high.to_integral_value(rounding="ROUND_FLOOR")),
    )
    if node.minimum is not None and node.maximum is not None and node.minimum > node.maximum:
        _fail(path, "no integer lies between the bounds")
    return node


def _number(schema: dict[str, Any], path: str, _depth: int) -> Node:
    given = [value for key in _NUMBER_KEYWORDS if (value := schema.get(key)) is not None]
    if not given:
        return Number(decimals=limits.MAX_DECIMALS)
    decimals = max([limits.MIN_DECIMALS, *(_n_decimals(value, path) for value in given)])
    low, high = _number_bounds(schema, path, step=Decimal(1).scaleb(-decimals))
    if low is not None and high is not None and low > high:
        _fail(path, "no number lies between the bounds")
    return Number(minimum=low, maximum=high, decimals=decimals)


def _number_bounds(
    schema: dict[str, Any], path: str, *, step: Decimal
) -> tuple[Decimal | None, Decimal | None]:
    found: dict[str, Decimal] = {}
    for key in _NUMBER_KEYWORDS & set(schema):
        value: object = schema[key]
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            _fail(f"{path}/{key}", f"must be a number, not {_show(value)}")
        number = Decimal(value)
        if abs(number) > limits.MAX_MAGNITUDE:
            _fail(f"{path}/{key}", f"is {_show(value)}; allowed: up to 10^15 in size")
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
        _fail(path, f"bounds may have {limits.MAX_DECIMALS} decimals, {_show(value)} has {n}")
    return n


def _bounds(schema: dict[str, Any], path: str, low: str, high: str) -> tuple[int, int | None]:
    least = _length(schema.get(low, 0), f"{path}/{low}")
    if high not in schema:
        return least, None
    most = _length(schema[high], f"{path}/{high}")
    if least > most:
        _fail(path, f"{low} is larger than {high}")
    return least, most


def _length(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _fail(path, f"must be a whole number from 0, not {_show(value)}")
    if value > limits.MAX_LENGTH:
        _fail(path, f"is {_show(value)}; allowed: up to {limits.MAX_LENGTH}")
    return value


def _children(node: Node) -> list[Node]:
    match node:
        case Object():
            return [entry.value for entry in node.properties]
        case Array():
            return [node.items]
        case AnyOf():
            return list(node.options)
        case _:
            return []


def _one_of(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else AnyOf(options=tuple(nodes))


def _is_type(value: object, name: object) -> bool:
    types = _PYTHON_TYPES.get(name) if isinstance(name, str) else None
    if types is None or (isinstance(value, bool) and name != "boolean"):
        return False
    return isinstance(value, types)


def _dump(value: str | int | Decimal | bool | None) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _show(value: object) -> str:
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(keys := dict(pairs)) != len(pairs):
        raise ValueError("an object names a key twice")
    return keys


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _fail(path: str, message: str) -> NoReturn:
    raise InvalidSchema(f"schema at {path[:200]}: {message}", _PARAM)
