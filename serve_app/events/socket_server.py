"""The event writer's socket: where gateways of its node hand in events.

A call of a Ray actor takes two milliseconds of three processes, and every enrolled request waits
for one. Here a thread per gateway reads, and the thread that commits answers.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from experiments.events.records import Event, Kept
from serve_app.events.frames import (
    HEADER,
    MAX_FRAME_BYTES,
    decode_events,
    encode_error,
    encode_kept,
    frame,
)
from serve_app.events.places import reachable

logger = logging.getLogger(__name__)

Store = Callable[[Sequence[Event]], "Future[Sequence[Kept]]"]
"""Takes a batch; the future resolves when it is durable."""


class EventSocket:
    """Listens for gateways until the process ends.

    Args:
        directory: Where the socket lies; only this user may connect.
        store: Called by the threads that read.

    Raises:
        OSError: If it cannot be made.
    """

    def __init__(self, directory: Path, store: Store) -> None:
        for stale in directory.glob("writer-*.sock"):  # the file has one writer: they are dead
            stale.unlink(missing_ok=True)
        self.path = directory / f"writer-{os.getpid()}.sock"
        self._store = store
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with reachable(self.path) as address:
            self._socket.bind(address)
        self.path.chmod(0o600)
        self._socket.listen()
        threading.Thread(target=self._accept, name="event-socket", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(
                target=_Conversation(connection, self._store).run, name="event-reader", daemon=True
            ).start()


class _Conversation:
    """One gateway's connection."""

    def __init__(self, connection: socket.socket, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._answering = threading.Lock()

    def run(self) -> None:
        """Take batches in until the gateway leaves."""
        with self._connection, self._connection.makefile("rb") as stream:
            try:
                while (header := _read(stream, HEADER.size)) is not None:
                    number, size = HEADER.unpack(header)
                    if size > MAX_FRAME_BYTES:
                        raise ValueError(f"a frame of {size} bytes")
                    payload = _read(stream, size)
                    if payload is None:
                        return
                    self._take(number, payload)
            except ValueError as error:
                logger.error("event connection closed: %s", error)
            except OSError:  # the gateway died
                return

    def _take(self, number: int, payload: bytes) -> None:
        events = decode_events(payload)
        try:
            stored = self._store(events)
        except Exception as error:  # too far behind, or closing: the gateway has a spool
            self._answer(number, encode_error(repr(error)))
            return
        stored.add_done_callback(partial(self._tell, number))

    def _tell(self, number: int, stored: "Future[Sequence[Kept]]") -> None:
        error = stored.exception()
        reply = encode_kept(stored.result()) if error is None else encode_error(repr(error))
        self._answer(number, reply)

    def _answer(self, number: int, payload: bytes) -> None:
        """Send a reply, without waiting: the thread that commits has others to serve.

        A gateway that does not read its replies loses the connection, and asks again.
        """
        data = frame(number, payload)
        with self._answering, suppress(OSError):
            try:
                whole = self._connection.send(data, socket.MSG_DONTWAIT) == len(data)
            except BlockingIOError:
                whole = False
            if not whole:
                self._connection.shutdown(socket.SHUT_RDWR)


def _read(stream: BinaryIO, size: int) -> bytes | None:
    """Return so many bytes; None if the connection ends before."""
    data = stream.read(size)
    return data if len(data) == size else None
