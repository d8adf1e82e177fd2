"""The gateway's end: one listening socket, and a queue for every stream that is expected."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from serve_app.direct.frames import HEADER, MAX_FRAME_BYTES, SECRET_BYTES, decode
from serve_app.errors import ReplicaLost
from serve_app.model.calls import ReplyBatch

logger = logging.getLogger(__name__)

_STRAGGLERS_S = 5.0
"""How long the last pieces may come after the call has returned: they go by another way."""
_AVOID_S = 60.0
"""How long the short way is left alone after a replica could not reach us."""


class ReplyTo(NamedTuple):
    """Where a replica sends the pieces of a call."""

    host: str
    port: int
    secret: bytes


class Inbox:
    """Takes streams in for one gateway process.

    Args:
        host: Address under which replicas reach this process; only that one is listened on.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._expected: dict[bytes, Incoming] = {}
        self._avoid_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether replicas are believed to reach it."""
        return time.monotonic() >= self._avoid_until

    def avoid(self) -> None:
        """Note that a replica could not reach it."""
        self._avoid_until = time.monotonic() + _AVOID_S
        logger.warning("a model replica cannot reach this gateway; streams go through Serve")

    async def expect(self) -> "Incoming":
        """Prepare for one stream."""
        if self._server is None:
            async with self._starting:
                if self._server is None:
                    loop = asyncio.get_running_loop()
                    self._server = await loop.create_server(
                        lambda: _Connection(self._expected), self._host, 0
                    )
        secret = secrets.token_bytes(SECRET_BYTES)
        port = self._server.sockets[0].getsockname()[1]
        incoming = Incoming(ReplyTo(self._host, port, secret), self._expected)
        self._expected[secret] = incoming
        return incoming

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()


class Incoming:
    """One stream on its way."""

    def __init__(self, reply_to: ReplyTo, expected: dict[bytes, "Incoming"]) -> None:
        self.reply_to = reply_to
        self._expected = expected
        self._batches: deque[ReplyBatch] = deque()
        self._changed = asyncio.Event()

    def deliver(self, batch: ReplyBatch) -> None:
        """Take a batch in."""
        self._batches.append(batch)
        self._changed.set()

    async def batches(self, call: "asyncio.Future[bool]") -> AsyncGenerator[ReplyBatch, None]:
        """Yield the stream's batches; raise what the call raised.

        Args:
            call: The call whose answer this is; done when the replica has sent everything. Its
                result is False if the replica could not reach us, and nothing has been begun.

        Raises:
            ReplicaLost: If the call ended well but its pieces do not come.
        """
        call.add_done_callback(lambda _: self._changed.set())
        while True:
            while self._batches:
                batch = self._batches.popleft()
                yield batch
                if batch.chunks and batch.chunks[-1].finish_reason is not None:
                    return
            self._changed.clear()
            if call.done():
                if not call.result():
                    return
                try:
                    await asyncio.wait_for(self._changed.wait(), _STRAGGLERS_S)
                except TimeoutError:
                    raise ReplicaLost("the end of the answer got lost", None, 1.0) from None
            else:
                await self._changed.wait()

    def close(self) -> None:
        """Expect no more; what still comes is dropped."""
        self._expected.pop(self.reply_to.secret, None)


class _Connection(asyncio.Protocol):
    """A replica's connection, over which it sends pieces of all its streams."""

    def __init__(self, expected: dict[bytes, Incoming]) -> None:
        self._expected = expected
        self._buffer = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            secret, size = HEADER.unpack_from(self._buffer, start)
            if size > MAX_FRAME_BYTES:
                self._refuse(f"a frame of {size} bytes")
                return
            end = start + HEADER.size + size
            if len(self._buffer) < end:
                break
            incoming = self._expected.get(secret)
            if incoming is not None:  # else the reader has gone
                try:
                    incoming.deliver(decode(bytes(self._buffer[start + HEADER.size : end])))
                except ValueError as error:
                    self._refuse(str(error))
                    return
            start = end
        del self._buffer[:start]

    def _refuse(self, reason: str) -> None:
        logger.error("stream connection closed: %s", reason)
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()
