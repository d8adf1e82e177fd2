"""The replica's end: one connection to each gateway that it answers."""

import asyncio
import contextlib
import time

from serve_app.direct.frames import encode
from serve_app.direct.inbox import ReplyTo
from serve_app.errors import EngineFailed
from serve_app.model.calls import ReplyBatch

_CONNECT_S = 2.0
_BELIEVED_S = 5.0
"""How long a gateway counts as out of reach after it was: its calls that are on their way already
shall not each wait for a connection in turn."""


class Unreachable(Exception):
    """The gateway cannot be reached from here."""


class Outlet:
    """Sends pieces of answers to gateways, over connections that are kept."""

    def __init__(self) -> None:
        self._writers: dict[tuple[str, int], asyncio.StreamWriter] = {}
        self._connecting: dict[tuple[str, int], asyncio.Lock] = {}
        self._failed: dict[tuple[str, int], tuple[float, str]] = {}

    async def connect(self, reply_to: ReplyTo) -> "Sender":
        """Return the way to a stream's reader.

        Raises:
            Unreachable: If there is none.
        """
        place = (reply_to.host, reply_to.port)
        async with self._connecting.setdefault(place, asyncio.Lock()):
            known = self._writers.get(place)
            if known is not None and not known.is_closing():
                return Sender(known, reply_to.secret)
            until, reason = self._failed.get(place, (0.0, ""))
            if time.monotonic() < until:
                raise Unreachable(reason)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    _, writer = await asyncio.open_connection(*place)
            except (OSError, TimeoutError) as error:
                reason = f"{place[0]}:{place[1]}: {str(error) or 'no answer'}"
                self._failed[place] = time.monotonic() + _BELIEVED_S, reason
                raise Unreachable(reason) from error
            finally:
                self._forget_closed()
            self._writers[place] = writer
        return Sender(writer, reply_to.secret)

    def close(self) -> None:
        """Close all connections."""
        for writer in self._writers.values():
            with contextlib.suppress(RuntimeError):  # its event loop has gone
                writer.close()
        self._writers.clear()

    def _forget_closed(self) -> None:
        now = time.monotonic()
        self._failed = {place: known for place, known in self._failed.items() if now < known[0]}
        for place, writer in list(self._writers.items()):
            if writer.is_closing():
                del self._writers[place]


class Sender:
    """Sends one stream."""

    def __init__(self, writer: asyncio.StreamWriter, secret: bytes) -> None:
        self._writer = writer
        self._secret = secret

    async def send(self, batch: ReplyBatch) -> None:
        """Send a batch; wait while the connection is full.

        Raises:
            EngineFailed: If the connection is lost.
        """
        if self._writer.is_closing():
            raise EngineFailed("the connection to the gateway was lost")
        self._writer.write(encode(self._secret, batch))
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise EngineFailed("the connection to the gateway was lost") from error
