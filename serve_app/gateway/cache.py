"""The response cache: answers that a variant's weights have already given.

A key names the tenant, everything that identifies the weights (see `ModelIdentity.fingerprint`) and
every field of the request that can change the answer. Only repeatable requests are looked up, and
only answers that ended by themselves are stored.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from serve_app.config import CacheConfig
from serve_app.engines.protocol import GenerationChunk
from serve_app.gateway.wire import IRRELEVANT
from serve_app.model.calls import ModelIdentity

_FORMAT: Literal[2] = 2
"""Version of stored answers; another one is a miss."""
_AS_APPLIED = ("temperature", "max_tokens", "max_completion_tokens")
"""Fields whose value in a key is the applied one, defaults included."""
_OVERHEAD_BYTES = 512
"""What an entry costs beside its text, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A finished answer, and who gave it."""

    chunk: GenerationChunk
    identity: ModelIdentity


_STORED = TypeAdapter(
    tuple[Literal[2], CachedAnswer],
    config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"),  # token bytes
)


def request_digest(
    kind: str, body: BaseModel, *, tenant: str, temperature: float, max_tokens: int
) -> bytes:
    """Return the part of a cache key that comes from the request.

    Args:
        kind: `chat` or `completion`.
        body: The validated body. Every field not in `IRRELEVANT` counts.
        tenant: Answers never cross tenants.
        temperature: As applied, defaults included.
        max_tokens: As applied, defaults included.
    """
    fields = body.model_dump(
        mode="json", by_alias=True, exclude={*IRRELEVANT, *_AS_APPLIED}, exclude_none=True
    )
    # Not sorted: the order of a schema's properties is the order of the answer's keys.
    return hashlib.sha256(orjson.dumps([kind, tenant, temperature, max_tokens, fields])).digest()


def cache_key(request: bytes, fingerprint: str) -> str:
    """Return the key of an answer: this request, these weights."""
    return hashlib.sha256(request + fingerprint.encode()).hexdigest()


class SharedTier(Protocol):
    """A second cache that several processes share. Failures are misses, never errors."""

    async def get(self, key: str) -> bytes | None:
        """Return what was stored, if it is still there."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store a value for a time."""
        ...


class ResponseCache:
    """Answers of this process, least recently used out first, before an optional shared tier."""

    def __init__(self, config: CacheConfig, shared: SharedTier | None = None) -> None:
        self._config = config
        self._shared = shared
        self._entries: OrderedDict[str, tuple[float, CachedAnswer, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries, estimated."""
        return self._bytes

    async def get(self, key: str) -> CachedAnswer | None:
        """Return a stored answer, if there is one and it has not expired."""
        entry = self._entries.get(key)
        if entry is not None:
            expires_at, answer, _ = entry
            if expires_at > time.monotonic():
                self._entries.move_to_end(key)
                return answer
            self._remove(key)
        if self._shared is None:
            return None
        stored = await self._shared.get(key)
        found = _decode(stored) if stored is not None else None
        if found is not None:
            self._keep(key, found)
        return found

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Store an answer."""
        self._keep(key, answer)
        if self._shared is not None:
            await self._shared.put(key, _encode(answer), self._config.ttl_s)

    def clear(self) -> None:
        """Forget every answer of this process."""
        self._entries.clear()
        self._bytes = 0

    def _keep(self, key: str, answer: CachedAnswer) -> None:
        size = _OVERHEAD_BYTES + 4 * len(answer.chunk.text) + 256 * len(answer.chunk.logprobs)
        if size > self._config.max_bytes:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (time.monotonic() + self._config.ttl_s, answer, size)
        self._bytes += size
        while len(self._entries) > self._config.max_entries or self._bytes > self._config.max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: str) -> None:
        self._bytes -= self._entries.pop(key)[2]


def _encode(answer: CachedAnswer) -> bytes:
    return _STORED.dump_json((_FORMAT, answer))


def _decode(stored: bytes) -> CachedAnswer | None:
    """Parse a stored answer; what cannot be read is a miss. Never unpickles."""
    try:
        return _STORED.validate_json(stored, strict=True)[1]
    except ValidationError:
        return None
