"""Which addresses an alert may be sent to."""

import ipaddress
import socket
from urllib.parse import urlsplit

from experiments.alerts.config import AlertConfig


class RefusedAddress(ValueError):
    """The address may not be called. The message has its host, never its path, which is secret."""


def check_address(url: str, config: AlertConfig) -> None:
    """Refuse an address that is not HTTPS to an allowed host in a public network.

    Raises:
        RefusedAddress: With the reason.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise RefusedAddress(f"the address is no URL: {error}") from None
    if not host:
        raise RefusedAddress("the address has no host")
    if parts.username is not None or parts.password is not None:
        raise RefusedAddress(f"the address of {host!r} has a user name in it")
    schemes = ("https", "http") if config.allow_private else ("https",)
    if parts.scheme not in schemes:
        raise RefusedAddress(f"{parts.scheme!r} to {host!r}; allowed: {', '.join(schemes)}")
    if not any(_allows(allowed, host, port) for allowed in config.allowed_hosts):
        raise RefusedAddress(
            f"host {host!r} is not in alerts.allowed_hosts: {sorted(config.allowed_hosts)}"
        )
    if not config.allow_private:
        _check_public(host, port or 443)


def _allows(allowed: str, host: str, port: int | None) -> bool:
    name, _, wanted = allowed.lower().partition(":")
    if wanted and wanted != str(port):
        return False
    if not wanted and port not in (None, 443, 80):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _check_public(host: str, port: int) -> None:
    """Refuse names that lead into the own network, whoever put them into the allow-list."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnresolvedHost(f"host {host!r} has no address: {error}") from error
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            raise RefusedAddress(
                f"host {host!r} leads to {address[0]}, which is not public; "
                "set alerts.allow_private: true if that is meant"
            )


class UnresolvedHost(OSError):
    """The name cannot be looked up now; it may work later."""
