"""How urgent a request is: what its key allows, and what its header asks for."""

from collections.abc import Mapping

from serve_app.engines.protocol import PRIORITIES, Priority
from serve_app.errors import InvalidField, PermissionDenied
from serve_app.gateway.auth import Caller

HEADER = "x-carril-priority"
_MAX_SHOWN_CHARS = 80


def priority_of(caller: Caller, headers: Mapping[str, str]) -> Priority:
    """Return the class of a request: that of its key, or a lesser one that it asks for.

    Raises:
        InvalidField: If the header names no class.
        PermissionDenied: If it names a higher one than the key has.
    """
    given = headers.get(HEADER)
    if given is None:
        return caller.priority
    for priority in PRIORITIES:
        if given.strip().lower() == priority:
            break
    else:
        raise InvalidField(
            f"{HEADER} is {given[:_MAX_SHOWN_CHARS]!r}; allowed: {', '.join(PRIORITIES)}", HEADER
        )
    if PRIORITIES.index(priority) < PRIORITIES.index(caller.priority):
        raise PermissionDenied(
            f"{HEADER} is {priority!r}, but the key {caller.key_name!r} is for "
            f"{caller.priority!r}; leave the header out, or use another key"
        )
    return priority
