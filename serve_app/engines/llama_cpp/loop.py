"""The engine thread: it alone touches the context, one step after another.

Everything else talks to it through a queue of commands, and reads its counters.
"""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.lanes import Lanes
from serve_app.errors import EngineFailed

logger = logging.getLogger(__name__)

_SWITCH_S = 0.0005
_IDLE_S = 0.2
"""Longest sleep without work; the heartbeat beats at least that often."""


class Command(NamedTuple):
    """What the asyncio side tells the engine thread."""

    kind: Literal["add", "cancel", "stop"]
    job: Job | None = None


class EngineLoop:
    """Turns the lanes in a thread of its own until it is stopped.

    Args:
        lanes: Used by this thread only from now on.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.heartbeat = time.monotonic()
        """When the loop last turned, on the monotonic clock."""
        self.failure = ""
        """Why the thread ended, if it did so by itself."""
        self._lanes = lanes
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._prepare: Callable[[], None] = lambda: None
        self._prepared = threading.Event()
        self._refusal: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="carril-llama", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Start the thread. Returns once it has prepared, and raises what that raised.

        Args:
            prepare: Computed in the thread before its first turn. OpenMP keeps a team of workers
                for every thread that has ever computed, and with more of them than CPUs it no
                longer lets any wait awake: 35 instead of 28 ms per step of a 1.2B model.
        """
        # The thread comes back from each step to ask for the interpreter; by default whoever has it
        # may keep it for 5 ms, which is longer than a small model's step.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._prepare = prepare
        self._thread.start()
        self._prepared.wait()
        if self._refusal is not None:
            self._thread.join()
            raise self._refusal

    def send(self, command: Command) -> None:
        """Queue a command and wake the thread. Safe from any thread.

        Raises:
            EngineFailed: If a job is added after the thread has ended.
        """
        with self._lock:
            if not self._ended:
                self._commands.put(command)
                return
        if command.kind == "add":
            raise EngineFailed(self.failure or "the engine was closed")

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._prepare()
        except BaseException as error:  # raised again by `start`
            self._refusal = error
            self._ended = True
            return
        finally:
            self._prepared.set()
        try:
            while self._obey():
                self.heartbeat = time.monotonic()
                self._lanes.turn()
            reason = "the engine was closed"
        except Exception as error:  # the thread's boundary: its requests must hear of anything
            logger.exception("engine thread failed")
            self.failure = reason = f"the engine thread failed: {type(error).__name__}"
        with self._lock:  # from here on `send` refuses jobs, so none is forgotten in the queue
            self._ended = True
        self._lanes.end(self._unread(), reason)

    def _obey(self) -> bool:
        # Waits only while there is nothing to compute. Returns False when told to stop.
        try:
            command = (
                self._commands.get(timeout=_IDLE_S)
                if self._lanes.is_idle
                else self._commands.get_nowait()
            )
            while command.kind != "stop":
                if command.job is not None:
                    if command.kind == "add":
                        self._lanes.add(command.job)
                    else:
                        self._lanes.cancel(command.job)
                command = self._commands.get_nowait()
        except queue.Empty:
            return True
        return False

    def _unread(self) -> list[Job]:
        jobs: list[Job] = []
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return jobs
            if command.kind == "add" and command.job is not None:
                jobs.append(command.job)
