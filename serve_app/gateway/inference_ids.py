"""Inference ids that prove whose they are.

An id is a time-ordered UUID (version 7, RFC 9562) and a keyed tag over it and the tenant. So the
gateway can tell at once, without asking the event store, whether a request was answered by this
deployment and for this tenant: feedback may come before the outcome is stored, and from any node.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

_TAG_DIGITS = 16
"""Hex digits of the tag. 64 bits: nobody guesses one over HTTP."""
_ID = re.compile(r"(?:chatcmpl|cmpl)-([0-9a-f]{32})([0-9a-f]{16})")
_MIN_SHARED_CHARS = 32


class InferenceIds:
    """Makes ids and recognises them.

    Args:
        secret: The deployment's secret; every gateway needs the same.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"carril inference id", "sha256")
        self._digest_key = hmac.digest(secret, b"carril feedback digest", "sha256")

    def new(self, prefix: str, tenant: str) -> str:
        """Return a new id for a request of a tenant."""
        unique = new_uuid7()
        return f"{prefix}-{unique}{self._tag(unique, tenant)}"

    def owned(self, inference_id: str, tenant: str) -> bool:
        """Return whether this deployment answered that request for that tenant."""
        match = _ID.fullmatch(inference_id)
        return match is not None and hmac.compare_digest(match[2], self._tag(match[1], tenant))

    def digest(self, *parts: str) -> str:
        """Return a keyed hash: equal for equal parts, and useless without the key."""
        mac = hmac.new(self._digest_key, digestmod="sha256")
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8, "big") + data)
        return mac.hexdigest()

    def _tag(self, unique: str, tenant: str) -> str:
        return hmac.digest(self._key, f"{unique} {tenant}".encode(), "sha256").hex()[:_TAG_DIGITS]


def issued_at(inference_id: str) -> float:
    """Return when an id was made, in seconds since the epoch.

    Raises:
        ValueError: If it is none of ours.
    """
    match = _ID.fullmatch(inference_id)
    if match is None:
        raise ValueError(f"{inference_id!r} is no inference id")
    return int(match[1][:12], 16) / 1000


def new_uuid7() -> str:
    """Return a time-ordered unique id (UUID version 7, RFC 9562), as 32 hex digits."""
    random = int.from_bytes(os.urandom(10), "big")
    millis = time.time_ns() // 1_000_000
    value = (millis & (2**48 - 1)) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def load_secret(home: Path) -> bytes:
    """Return the deployment's secret, making it on first use.

    `CARRIL_ID_SECRET` names one that all nodes of a cluster share; without it each CARRIL_HOME has
    its own, in `secrets/ids.key`.

    Raises:
        ValueError: If `CARRIL_ID_SECRET` is too short, or the file is damaged.
    """
    shared = os.environ.get("CARRIL_ID_SECRET")
    if shared is not None:
        if len(shared) < _MIN_SHARED_CHARS:
            raise ValueError(
                f"CARRIL_ID_SECRET has {len(shared)} characters; it needs at least "
                f"{_MIN_SHARED_CHARS}: openssl rand -hex 32"
            )
        return hashlib.sha256(shared.encode()).digest()
    path = home / "secrets" / "ids.key"
    if not path.exists():
        _make_secret(path)
    secret = path.read_bytes()
    if len(secret) != hashlib.sha256().digest_size:
        raise ValueError(f"{path} is damaged; without it ids given out so far are not recognised")
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret, unless another process is faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(hashlib.sha256().digest_size))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, path)
        except FileExistsError:
            return
    finally:
        own.unlink()
