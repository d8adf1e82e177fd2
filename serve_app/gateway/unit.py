"""Which unit a request belongs to: what makes a session sticky."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serve_app.errors import InvalidField

_MAX_UNIT_CHARS = 512
_CLIENT_HEADERS = ("x-openwebui-chat-id", "chatui-conversation-id")
_BODY_FIELDS = ("prompt_cache_key", "user", "safety_identifier")


class Unit(NamedTuple):
    """A randomisation unit."""

    id: str
    source: str
    """Header or field that named it."""


def resolve_unit(headers: Mapping[str, str], body: Mapping[str, Any], tenant: str) -> Unit | None:
    """Return the unit of a request; the first present source wins.

    The order is `x-session-id`, `metadata.session_id`, `prompt_cache_key`, `user`,
    `safety_identifier`, then the chat ids of known front ends. Units of different tenants never
    coincide.

    Args:
        headers: Request headers, case-insensitive.
        body: Validated request body as a mapping.
        tenant: Tenant of the API key.

    Raises:
        InvalidField: If the session id is too long or no text.
    """
    metadata = body.get("metadata") or {}
    candidates = [
        ("x-session-id", headers.get("x-session-id")),
        ("metadata.session_id", metadata.get("session_id")),
        *((name, body.get(name)) for name in _BODY_FIELDS),
        *((name, headers.get(name)) for name in _CLIENT_HEADERS),
    ]
    for source, value in candidates:
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > _MAX_UNIT_CHARS:
            raise InvalidField(
                f"{source} must be a text of at most {_MAX_UNIT_CHARS} characters", source
            )
        # A tenant's name has no slash, so what stands before the first one is always the tenant.
        plain = tenant == "default" and "/" not in value
        return Unit(value if plain else f"{tenant}/{value}", source)
    return None
