"""Schemas in which a string's text may decide what follows the string."""

from serve_app.engines.schema.nodes import AnyObject, AnyOf, Array, Node, Object
from serve_app.engines.schema.subset import parse_schema


def lookalikes(text: str) -> bool:
    """Tell whether somewhere two objects, or two arrays, may stand in the same place.

    They begin alike, so a string inside (a tag, or one that is too long for the first of them) may
    be all that tells which one it is, and so what comes behind the string. Everywhere else that
    follows from what stands around the string.

    Args:
        text: JSON text of a schema.

    Raises:
        InvalidSchema: If it is outside the subset.
    """
    return _found(parse_schema(text), set())


def _found(node: Node, seen: set[int]) -> bool:
    if id(node) in seen:  # definitions may be reached on very many paths
        return False
    seen.add(id(node))
    match node:
        case Object():
            return any(_found(entry.value, seen) for entry in node.properties)
        case Array():
            return _found(node.items, seen)
        case AnyOf():
            options = list(_flat(node, {}).values())
            n_objects = sum(isinstance(option, Object | AnyObject) for option in options)
            n_arrays = sum(isinstance(option, Array) for option in options)
            return n_objects > 1 or n_arrays > 1 or any(_found(one, seen) for one in options)
        case _:
            return False


def _flat(node: AnyOf, found: dict[int, Node]) -> dict[int, Node]:
    for option in node.options:
        if id(option) not in found:
            found[id(option)] = option
            if isinstance(option, AnyOf):
                _flat(option, found)
    return found
