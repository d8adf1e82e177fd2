"""Group commit: many callers, one transaction, one sync."""

import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from experiments.events.records import Event

_MAX_BATCHES = 4096
"""Batches in one transaction at most; bounds the memory of a transaction."""
_STORE_FAULTS = (sqlite3.OperationalError, OSError)
"""A locked file, a full disk: no batch's fault, so trying them one by one is of no use."""


class Sink(Protocol):
    """What takes a durable batch."""

    def append(self, events: Sequence[Event]) -> None:
        """Store all of them, or raise and store none."""
        ...


class _Batch(NamedTuple):
    events: Sequence[Event]
    done: "Future[None]"


class QueueFull(Exception):
    """The writer is too far behind to take more."""


class GroupCommitWriter:
    """One thread that commits everything handed in since its last commit.

    While one transaction syncs, the next batch gathers, so throughput grows with load and a lone
    caller waits for nobody.

    Args:
        sink: Where batches go. Used by the writer's thread only.
        max_pending: Batches waiting at most; above it `submit` refuses.
    """

    def __init__(self, sink: Sink, *, max_pending: int = 10_000) -> None:
        self._sink = sink
        self._queue: queue.Queue[_Batch | None] = queue.Queue(maxsize=max_pending)
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="event-writer", daemon=True)
        self._thread.start()

    def submit(self, events: Sequence[Event]) -> "Future[None]":
        """Hand in a batch; the future resolves once it is durable, or with the store's error.

        Raises:
            QueueFull: If the writer is `max_pending` batches behind.
            RuntimeError: If the writer is closed.
        """
        done: Future[None] = Future()
        with self._closing:
            if self._closed:
                raise RuntimeError("the event writer is closed")
            try:
                self._queue.put_nowait(_Batch(events, done))
            except queue.Full:
                raise QueueFull(
                    f"the event writer is {self._queue.maxsize} batches behind"
                ) from None
        return done

    @property
    def pending(self) -> int:
        """Batches that wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commit what was handed in, then stop the thread."""
        with self._closing:
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batches = self._gather()
            live = [batch for batch in batches if batch is not None]
            for batch in live:
                # From here on it cannot be cancelled. One that was is stored all the same: what it
                # reports has happened.
                batch.done.set_running_or_notify_cancel()
            if live:
                self._commit(live)
            if len(live) < len(batches):
                return

    def _gather(self) -> list[_Batch | None]:
        batches = [self._queue.get()]
        while batches[-1] is not None and len(batches) < _MAX_BATCHES:
            try:
                batches.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batches

    def _commit(self, batches: list[_Batch]) -> None:
        try:
            self._sink.append([event for batch in batches for event in batch.events])
        except _STORE_FAULTS as error:
            _resolve(batches, error)
        except Exception as error:
            # A batch that the store refuses must not take its neighbours down with it.
            if len(batches) == 1:
                _resolve(batches, error)
                return
            for batch in batches:
                self._commit([batch])
        else:
            _resolve(batches, None)


def _resolve(batches: Sequence[_Batch], error: Exception | None) -> None:
    for batch in batches:
        if batch.done.cancelled():
            continue
        if error is None:
            batch.done.set_result(None)
        else:
            batch.done.set_exception(error)
