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
    Node,
    Object,
    Property,
)
from serve_app.engines.schema.scalars import (
    NUMBER_KEYWORDS,
    PARAM,
    fail,
    length_bounds,
    read_choice,
    read_integer,
    read_number,
    read_string,
    show,
)
from serve_app.errors import InvalidSchema

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": NUMBER_KEYWORDS,
    "number": NUMBER_KEYWORDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_COMBINING = frozenset({"type", "enum", "const", "anyOf", "allOf", "$ref"})


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
            f"the schema has {n_bytes} bytes; allowed: {limits.MAX_SCHEMA_BYTES}", PARAM
        )
    try:
        schema = json.loads(
            text,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidSchema(f"the schema is not valid JSON: {error}", PARAM) from error
    try:
        node = _Reader(schema).read(schema, "#", depth=0)
    except RecursionError as error:
        raise InvalidSchema("the schema is nested too deeply", PARAM) from error
    if not isinstance(node, Object | AnyObject):
        fail("#", "the root must be of type 'object'")
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
            fail(path, f"a schema must be an object, not {show(schema)}")
        if depth > limits.MAX_DEPTH:
            fail(path, f"objects and arrays may be nested {limits.MAX_DEPTH} deep")
        keywords = set(schema) - _ANNOTATIONS
        for one, read in (("$ref", self._ref), ("anyOf", self._any_of), ("allOf", self._all_of)):
            if one in keywords:
                if others := sorted(keywords - {one}):
                    fail(path, f"{one!r} cannot be combined with {others}")
                return read(schema[one], path, depth)
        if "enum" in keywords or "const" in keywords:
            return self._count(read_choice(schema, keywords, path), path)
        return self._typed(schema, keywords, path, depth)

    def _typed(self, schema: dict[str, Any], keywords: set[str], path: str, depth: int) -> Node:
        types = schema.get("type")
        listed = types if isinstance(types, list) else [types]
        names = [name for name in listed if isinstance(name, str) and name in _KEYWORDS]
        if not names or names != listed:
            fail(path, f"type is {show(types)}; allowed: {sorted(_KEYWORDS)}")
        if len(set(names)) != len(names):
            fail(path, f"type names one twice: {names}")
        allowed = frozenset[str]().union(*(_KEYWORDS[name] for name in names))
        if unknown := sorted(keywords - allowed - {"type"}):
            fail(
                path,
                f"keyword {unknown[0]!r} is not supported for type {types!r}; "
                f"allowed: {sorted(allowed | _COMBINING)}",
            )
        readers: dict[str, Callable[[dict[str, Any], str, int], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": read_string,
            "integer": read_integer,
            "number": read_number,
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
            fail(f"{path}/properties", f"must be an object, not {show(properties)}")
        if extra not in (False, True):
            fail(f"{path}/additionalProperties", "only false is supported: name every property")
        self._n_properties += len(properties)
        if self._n_properties > limits.MAX_PROPERTIES:
            fail(path, f"more than {limits.MAX_PROPERTIES} properties in the whole schema")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            fail(f"{path}/required", "must be a list of property names")
        if unknown := sorted(set(required) - set(properties)):
            fail(f"{path}/required", f"{unknown[0]!r} is not among the properties")
        entries = []
        for name, value in properties.items():
            if len(name) > limits.MAX_NAME_CHARS:
                fail(path, f"a property name has more than {limits.MAX_NAME_CHARS} characters")
            node = self.read(value, f"{path}/properties/{name}", depth + 1)
            entries.append(Property(name=name, value=node, required=name in required))
        return Object(properties=tuple(entries))

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> Node:
        if "items" not in schema:
            fail(path, "an array needs 'items'")
        low, high = length_bounds(schema, path, "minItems", "maxItems")
        items = self.read(schema["items"], f"{path}/items", depth + 1)
        return Array(items=items, min_items=low, max_items=high)

    def _count(self, node: Choice, path: str) -> Choice:
        self._n_values += len(node.values)
        if self._n_values > limits.MAX_ENUM_VALUES:
            fail(path, f"more than {limits.MAX_ENUM_VALUES} enum values in the whole schema")
        return node

    def _any_of(self, options: Any, path: str, depth: int) -> Node:
        if not isinstance(options, list) or not options:
            fail(path, "'anyOf' must be a list with at least one schema")
        return _one_of(
            [self.read(option, f"{path}/anyOf/{i}", depth) for i, option in enumerate(options)]
        )

    def _all_of(self, options: Any, path: str, depth: int) -> Node:
        if not isinstance(options, list) or len(options) != 1:
            fail(path, "'allOf' is supported with exactly one schema")
        return self.read(options[0], f"{path}/allOf/0", depth)

    def _ref(self, reference: Any, path: str, depth: int) -> Node:
        parts = reference.split("/") if isinstance(reference, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
            fail(path, f"$ref is {show(reference)}; allowed: '#/$defs/NAME'")
        if reference in self._open:
            fail(path, f"$ref {reference!r} refers to itself; recursion is not supported")
        if reference not in self._definitions:
            section = self._root.get(parts[1])
            name = parts[2].replace("~1", "/").replace("~0", "~")
            if not isinstance(section, dict) or name not in section:
                fail(path, f"$ref {reference!r} has no definition")
            self._open.add(reference)
            node = self.read(section[name], reference, depth)
            self._open.discard(reference)
            self._definitions[reference] = node
        # A definition is read once, at the depth of its first use; later uses may lie deeper.
        node = self._definitions[reference]
        if depth + self._height(node) > limits.MAX_DEPTH:
            fail(path, f"objects and arrays may be nested {limits.MAX_DEPTH} deep")
        return node

    def _height(self, node: Node) -> int:
        known = self._heights.get(id(node))
        if known is None:
            below = [self._height(child) for child in _children(node)]
            known = max(below, default=0) + isinstance(node, Object | Array)
            self._heights[id(node)] = known
        return known


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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(keys := dict(pairs)) != len(pairs):
        raise ValueError("an object names a key twice")
    return keys


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
