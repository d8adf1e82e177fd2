"""What is wrong with a configuration, said so that it can be put right."""

import difflib
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_SECRET_URLS = (("redis_url",), ("ship_to",), ("endpoint",))
"""Fields that may hold a password, and are not shown in errors."""
_MAX_KEYS_SHOWN = 12


def faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return a line per fault: where it is, what is allowed there, and what was given.

    Args:
        error: What pydantic found.
        model: What was read.
    """
    lines = []
    for item in error.errors():
        location = item["loc"]
        path = ".".join(str(part) for part in location)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message += _instead(str(location[-1]), keys_at(model, location[:-1]))
        given = item.get("input")
        secret = location[:1] == ("auth",) or location[-1:] in _SECRET_URLS
        tellable = isinstance(given, str | int | float | bool) and not secret
        shown = f" (got {given!r})" if tellable else ""
        lines.append(f"{path}: {message}{shown}" if path else message)
    return lines


def keys_at(model: Any, location: Sequence[str | int]) -> list[str]:
    """Return the keys that are allowed at a place of a configuration, none if that is unknown."""
    kind = model
    for part in location:
        kind = _below(_plain(kind), part)
    kind = _plain(kind)
    return sorted(kind.model_fields) if _is_model(kind) else []


def _instead(key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    if close:
        return f", no such key; did you mean {close[0]!r}?"
    if 0 < len(allowed) <= _MAX_KEYS_SHOWN:
        return f", no such key; allowed: {', '.join(allowed)}"
    return ", no such key; take it out"


def _below(kind: Any, part: str | int) -> Any:
    if _is_model(kind):
        field = kind.model_fields.get(part)
        return None if field is None else field.annotation
    values = [value for value in get_args(kind) if value is not Ellipsis]
    return values[-1] if values else None  # of a mapping, a tuple or a list


def _plain(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        options = [_plain(one) for one in get_args(kind) if one is not NoneType]
        return next((one for one in options if _is_model(one)), options[0])
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
