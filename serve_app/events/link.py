"""A gateway's way to the event writer of its node: the socket, and Ray where there is none."""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray
from ray.exceptions import RayError

from experiments.events.records import Event, Kept
from serve_app.events.frames import (
    HEADER,
    MAX_FRAME_BYTES,
    NotStored,
    decode_reply,
    encode_events,
    frame,
)
from serve_app.events.places import reachable
from serve_app.events.writer import get_writer

logger = logging.getLogger(__name__)

_RETRY_S = 5.0
"""Pause between attempts to reach a socket that cannot be reached."""


class SocketLost(Exception):
    """The connection to the writer ended before its reply came."""


class WriterLink:
    """Stores batches in the node's writer. For one event loop.

    Args:
        home: CARRIL_HOME.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._writer: ray.actor.ActorHandle = get_writer(home)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connect_after = 0.0

    async def append(self, events: Sequence[Event]) -> Sequence[Kept]:
        """Return once the batch is durable.

        Returns:
            What the log keeps of every enrolment in the batch, in their order.

        Raises:
            SocketLost: If nobody knows whether it is. Storing it again does no harm.
            NotStored: If the writer could not store it.
            RayError: If there is no writer.
        """
        if (connection := self._connected()) is not None:
            try:
                payload = encode_events(events)
            except TypeError:  # what JSON cannot carry; the writer says what it thinks of it
                pass
            else:
                return await connection.call(payload)
        try:
            kept: Sequence[Kept] = await self._writer.append.remote(list(events))
            return kept
        except RayError:
            self._writer = get_writer(self._home)
            raise

    def ship_to(self, url: str | None) -> None:
        """Tell the writer where to ship events, without waiting."""
        with suppress(RayError, AttributeError):  # a writer from before it could ship
            self._writer.ship_to.remote(url)

    def _connected(self) -> "Connection | None":
        """Return the connection; without one, see to it that the next batch finds one."""
        if self._connection is not None and not self._connection.lost:
            return self._connection
        self._connection = None
        if self._connecting is None and time.monotonic() >= self._connect_after:
            self._connecting = asyncio.create_task(self._connect())
        return None

    async def _connect(self) -> None:
        try:
            path = await self._writer.socket_path.remote()
            if path is not None:
                self._connection = await connect(Path(path))
        except (RayError, OSError, AttributeError) as error:  # or a writer from before it had one
            logger.info("event socket not reached", extra={"reason": repr(error)[:300]})
        finally:
            if self._connection is None:
                self._connect_after = time.monotonic() + _RETRY_S
            self._connecting = None


async def connect(path: Path) -> "Connection":
    """Connect to a writer's socket.

    Raises:
        OSError: If nobody listens there.
    """
    with reachable(path) as address:
        _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, address)
    return connection


class Connection(asyncio.Protocol):
    """One connection to a writer; any number of batches may be under way."""

    def __init__(self) -> None:
        self.lost = False
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Sequence[Kept]]] = {}
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def call(self, payload: bytes) -> Sequence[Kept]:
        """Hand in a batch and return the writer's reply.

        Raises:
            SocketLost: If it does not come.
            NotStored: If the writer could not store the batch.
        """
        if self.lost or self._transport is None:
            raise SocketLost("the event writer has gone")
        number = next(self._numbers) & 0xFFFFFFFF
        reply = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(frame(number, payload))
            kept: Sequence[Kept] = await reply
            return kept
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Leave."""
        self.lost = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport  # type: ignore[assignment]  # a socket's can write

    def data_received(self, data: bytes) -> None:
        """Take replies in."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            number, size = HEADER.unpack_from(self._buffer, start)
            if size > MAX_FRAME_BYTES:
                logger.error("event connection closed: a frame of %d bytes", size)
                self.close()
                return
            end = start + HEADER.size + size
            if len(self._buffer) < end:
                break
            self._settle(number, bytes(self._buffer[start + HEADER.size : end]))
            start = end
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self.lost = True
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(SocketLost(f"the event writer has gone: {exc}"))

    def _settle(self, number: int, payload: bytes) -> None:
        reply = self._waiting.get(number)
        if reply is None or reply.done():  # whoever asked has given up
            return
        try:
            reply.set_result(decode_reply(payload))
        except (NotStored, ValueError) as error:
            reply.set_exception(error)
