"""Who is calling: API keys by hash, or nobody but this machine."""

import functools
import hashlib
import hmac
import ipaddress
from typing import NamedTuple

from serve_app.config import AuthConfig, GatewayConfig
from serve_app.engines.protocol import Priority
from serve_app.errors import AuthenticationFailed, ConfigError, PermissionDenied


class Caller(NamedTuple):
    """An authenticated caller."""

    key_name: str
    tenant: str
    priority: Priority = "interactive"
    """Highest class that its requests may have, and the one that they have unless they say."""


_LOCAL = Caller("local", "default")


def authenticate(config: AuthConfig, authorization: list[str], client_host: str | None) -> Caller:
    """Return the caller of a request.

    Args:
        config: Known keys. With none, only loopback clients are served.
        authorization: All values of the `Authorization` header.
        client_host: Address of the peer, if known.

    Raises:
        AuthenticationFailed: If the key is missing, malformed or unknown.
        PermissionDenied: If no keys are configured and the client is on another machine.
    """
    if not config.keys:
        trusted = config.allow_anonymous or client_host is None or is_loopback(client_host)
        if not trusted:
            raise PermissionDenied(
                "no API keys are configured, so only clients on this machine are served; "
                "add auth.keys to the gateway's user_config"
            )
        return _LOCAL
    if len(authorization) != 1:
        raise AuthenticationFailed(
            "send one header 'Authorization: Bearer <key>'"
            + (f"; got {len(authorization)}" if authorization else "")
        )
    scheme, _, token = authorization[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed("send the key as 'Authorization: Bearer <key>'")
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    found: Caller | None = None
    for key in config.keys:  # every key is compared, so that timing says nothing
        if hmac.compare_digest(key.sha256, digest):
            found = Caller(key.name, key.tenant, key.priority)
    if found is None:
        raise AuthenticationFailed("the API key is not known")
    return found


def check_exposure(config: GatewayConfig, http_host: str) -> None:
    """Make sure that a port open to a network asks for keys.

    Behind the proxy every client looks local, so a request cannot tell; the bound address can.

    Args:
        config: The gateway's configuration.
        http_host: Address that the API is bound to.

    Raises:
        ConfigError: If anyone on the network could call without a key, and the configuration does
            not say that this is meant.
    """
    if is_loopback(http_host) or config.auth.keys or config.auth.allow_anonymous:
        return
    raise ConfigError(
        f"http_options.host {http_host!r} opens the API to the network, and there are no API keys: "
        "add auth.keys, or say auth.allow_anonymous: true, or use 127.0.0.1"
    )


@functools.lru_cache(maxsize=1024)  # asked once per request, for the few peers there are
def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
