"""The replica's side of the helper process that grammars are tried in."""

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from serve_app.engines.llama_cpp.grammar_wire import ACCEPTED, HEADER, READY
from serve_app.errors import EngineFailed, InvalidSchema, Overloaded

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Longest a grammar may take."""
_START_S = 60.0
_QUEUE_S = 5.0
"""Longest wait for others' grammars."""


class GrammarChecker:
    """Owns one helper process; starts another when it has died. Safe from several threads.

    Args:
        model_path: File whose tokenizer the grammars are tried with.
        check_s: Longest a grammar may take, in seconds.
    """

    def __init__(self, model_path: Path, *, check_s: float = CHECK_S) -> None:
        self._model_path = model_path.absolute()
        self._check_s = check_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the helper, None if there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the helper without waiting for it."""
        with self._lock:
            self._ensure_started()

    def check(self, gbnf: str) -> None:
        """Try a grammar. Blocking.

        Raises:
            InvalidSchema: If it does not compile, or takes too much time or memory.
            Overloaded: If too many other grammars are being tried.
            EngineFailed: If no helper process can be started.
        """
        if not self._lock.acquire(timeout=_QUEUE_S):
            raise Overloaded("too many new JSON schemas at once", retry_after_s=_QUEUE_S)
        try:
            self._ensure_started()
            self._await_ready()
            answer = self._ask(gbnf.encode())
        finally:
            self._lock.release()
        if answer != ACCEPTED:
            reason = "needs too much time or memory" if answer is None else "does not compile"
            raise InvalidSchema(f"the JSON schema {reason} as a grammar", "response_format")

    def close(self) -> None:
        """End the helper. Idempotent."""
        with self._lock:
            self._closed = True
            self._stop()

    def _ensure_started(self) -> None:
        if self._closed:
            raise EngineFailed("the engine was closed")
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        # The replica's import path may have been put together at run time, as Ray does.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serve_app.engines.llama_cpp.grammar_worker",
                str(self._model_path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is for the replica
        )

    def _await_ready(self) -> None:
        if self._ready:
            return
        if self._read(_START_S) != READY:
            self._stop()
            raise EngineFailed("the helper process for JSON schemas does not start")
        self._ready = True

    def _ask(self, gbnf: bytes) -> bytes | None:
        process = self._process
        if process is None or process.stdin is None:
            return None
        answer = None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(HEADER.pack(len(gbnf)) + gbnf)
            process.stdin.flush()
            answer = self._read(self._check_s)
        if answer is None:
            logger.warning("a grammar of %s bytes ended the helper process", len(gbnf))
            self._stop()
        return answer

    def _read(self, timeout_s: float) -> bytes | None:
        process = self._process
        if process is None or process.stdout is None:
            return None
        deadline = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN | select.POLLHUP)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        return os.read(process.stdout.fileno(), 1) or None

    def _stop(self) -> None:
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
