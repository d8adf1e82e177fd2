"""Analysing experiments in a process of its own, whose answer is kept for some seconds.

A gateway holds no native code and its event loop must not wait; the analysis needs numpy and may
read millions of rows. So each question starts `python -m experiments.analysis`, one at a time, at a
low priority, and everybody who asks meanwhile shares the answer.
"""

import asyncio
import logging
import os
import sys
import time
from typing import Any, NamedTuple

import orjson

from serve_app.errors import InternalError, Overloaded

logger = logging.getLogger(__name__)

_FRESH_S = 10.0
"""How long an answer is good."""
_TIMEOUT_S = 120.0
_MAX_KEPT = 64
_REFUSALS = frozenset({1, 2, 3})
"""Exit codes with a reason on stderr: no data, not known to the log, no log."""


class NoAnswer(NamedTuple):
    """There is nothing to analyse."""

    reason: str


class _Kept(NamedTuple):
    answer: "dict[str, Any] | NoAnswer"
    until: float


class AnalysisProcess:
    """Asks the analysis, at most one question at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._kept: dict[tuple[tuple[str, ...], bytes], _Kept] = {}

    async def ask(self, arguments: tuple[str, ...], config: bytes) -> "dict[str, Any] | NoAnswer":
        """Return the JSON that an `exp` command prints, of at most some seconds ago.

        Args:
            arguments: The command and its arguments, without `--config`.
            config: Declarations, for its standard input.

        Raises:
            RequestError: If it takes too long or fails.
        """
        key = (arguments, config)
        async with self._turn:
            kept = self._kept.get(key)
            if kept is not None and kept.until > time.monotonic():
                return kept.answer
            answer = await self._run(arguments, config)
            if len(self._kept) >= _MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = _Kept(answer, time.monotonic() + _FRESH_S)
            return answer

    async def _run(self, arguments: tuple[str, ...], config: bytes) -> "dict[str, Any] | NoAnswer":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "experiments.analysis",
            *arguments,
            "--config",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ray puts a job's code on this process's path, not into the environment.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, complaint = await process.communicate(config)
        except TimeoutError:
            raise Overloaded("the analysis takes too long; try again later", None, 30.0) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            answer: dict[str, Any] = orjson.loads(out)
            return answer
        reason = complaint.decode(errors="replace").strip()
        if process.returncode in _REFUSALS:
            return NoAnswer(reason.removeprefix("error: "))
        logger.error(
            "analysis failed", extra={"code": process.returncode, "reason": reason[-2000:]}
        )
        raise InternalError("the analysis failed")
