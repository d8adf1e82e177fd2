"""Text capture: what was said, without personal data, kept to learn from. Off unless asked for."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence

import orjson

from experiments.events.records import Transcript
from experiments.pii.redact import Redactor
from serve_app.config import CaptureConfig
from serve_app.engines.protocol import Message
from serve_app.events.client import EventClient
from serve_app.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

_MAX_PENDING = 256
"""Conversations being redacted at once; more are dropped, and counted, before they cost memory."""
_HOUR_S = 3600.0


class TextCapture:
    """Redacts and records conversations, after their answer is out.

    Args:
        config: What is kept, and for how long.
        events: Where transcripts go.
        metrics: Counts what became of each.
    """

    def __init__(self, config: CaptureConfig, events: EventClient, metrics: GatewayMetrics) -> None:
        self._config = config
        self._events = events
        self._metrics = metrics
        self._pending: set[asyncio.Task[None]] = set()

    def wants(self, *, inference_id: str, unit: str | None) -> bool:
        """Return whether a request is in the sample: whole sessions are, or single requests."""
        if self._config.text == "off":
            return False
        digest = hashlib.sha256(f"capture {unit or inference_id}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return share < self._config.sample_percent / 100

    def keep(
        self, *, inference_id: str, tenant: str, messages: Sequence[Message], answer: str
    ) -> None:
        """Redact and record a conversation in the background."""
        if sum(len(message.content) for message in messages) + len(answer) > self._config.max_chars:
            self._metrics.transcripts.labels("too_long").inc()
            return
        if len(self._pending) >= _MAX_PENDING:
            self._metrics.transcripts.labels("dropped").inc()
            return
        task = asyncio.create_task(self._record(inference_id, tenant, tuple(messages), answer))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _record(
        self, inference_id: str, tenant: str, messages: Sequence[Message], answer: str
    ) -> None:
        try:
            texts = await asyncio.to_thread(_redact, messages, answer)
        except Exception:  # what could not be redacted is not kept
            logger.exception("text not captured", extra={"inference_id": inference_id})
            self._metrics.transcripts.labels("dropped").inc()
            return
        now = time.time()
        keep_until = now + self._config.retention_days * 24 * _HOUR_S
        waits = self._config.text == "feedback"
        self._events.record(
            Transcript(
                inference_id=inference_id,
                captured_at=now,
                tenant=tenant,
                messages=texts[0],
                answer=texts[1],
                unrated_until=min(keep_until, now + self._config.unrated_hours * _HOUR_S)
                if waits
                else keep_until,
                keep_until=keep_until,
            )
        )
        self._metrics.transcripts.labels("captured").inc()


def _redact(messages: Sequence[Message], answer: str) -> tuple[str, str]:
    redactor = Redactor()
    plain = [
        {"role": message.role, "content": redactor.redact(message.content)} for message in messages
    ]
    return orjson.dumps(plain).decode(), redactor.redact(answer)
