"""Accepting feedback: checked against the declaration, deduplicated, durable, then acknowledged."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from experiments.events.feedback_keys import StoredKey
from experiments.events.records import Feedback
from experiments.feedback.metrics import BadValue, MetricSpec, Value, check_value
from experiments.pii.redact import Redactor
from serve_app.config import GatewayConfig
from serve_app.errors import (
    EventsUnavailable,
    IdempotencyConflict,
    InferenceNotFound,
    InvalidField,
    RequestError,
)
from serve_app.events.client import EventClient
from serve_app.gateway.auth import Caller
from serve_app.gateway.feedback_wire import Submission, parse_feedback
from serve_app.gateway.inference_ids import InferenceIds, issued_at, new_uuid7
from serve_app.gateway.unit import resolve_unit
from serve_app.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

_MAX_KEY_CHARS = 255
_DAY_S = 86_400.0

Lookup = Callable[[str], StoredKey | None]


class Acknowledged(NamedTuple):
    """The answer to feedback."""

    body: dict[str, Any]
    replayed: bool
    """Whether it had been accepted before under the same Idempotency-Key."""


class _Key(NamedTuple):
    digest: str
    request_hash: str

    def conflicts_with(self, stored: StoredKey | None) -> bool:
        return stored is not None and stored.request_hash != self.request_hash


class FeedbackService:
    """Takes feedback of one configuration.

    Args:
        config: Declared metrics and limits.
        events: Where votes go.
        ids: Recognises the deployment's inference ids.
        lookup: Finds what was stored under an idempotency digest. Blocking; called in a thread.
        metrics: The gateway's series.
    """

    def __init__(
        self,
        config: GatewayConfig,
        events: EventClient,
        ids: InferenceIds,
        lookup: Lookup,
        metrics: GatewayMetrics,
    ) -> None:
        self._config = config.feedback
        self._config_hash = config.config_hash
        self._events = events
        self._ids = ids
        self._lookup = lookup
        self._metrics = metrics

    async def accept(self, raw: dict[str, Any], key: str | None, caller: Caller) -> Acknowledged:
        """Store a submission; when this returns, it is durable.

        Args:
            raw: The parsed body.
            key: The header `Idempotency-Key`, if there was one.
            caller: Who sends it.

        Raises:
            ClientError: If it is malformed, about something unknown, or reuses a key.
            EventsUnavailable: If it could be stored nowhere; then none of it counts.
        """
        counted: tuple[str, ...] = ("",)
        try:
            submission = parse_feedback(raw)
            specs = self._declared(submission)
            counted = tuple(specs)
            done = await self._accept(submission, specs, raw, key, caller)
        except EventsUnavailable:
            self._count(counted, "unavailable")
            raise
        except RequestError:
            self._count(counted, "refused")
            raise
        if not submission.dryrun:
            self._count(counted, "replayed" if done.replayed else "accepted")
            logger.info(
                "feedback",
                extra={
                    "feedback_id": done.body["feedback_id"],
                    "metrics": list(counted),
                    "replayed": done.replayed,
                },
            )
        return done

    async def _accept(
        self,
        submission: Submission,
        specs: Mapping[str, MetricSpec],
        raw: dict[str, Any],
        key_text: str | None,
        caller: Caller,
    ) -> Acknowledged:
        values = self._checked(submission, specs)
        target = self._target(submission, caller)
        key = self._key(key_text, raw, caller)
        feedback_id = _feedback_id(key)
        body = {
            "object": "feedback",
            "feedback_id": feedback_id,
            "inference_id": submission.inference_id,
            "episode_id": submission.episode_id,
            "metrics": list(values),
        }
        if submission.dryrun:
            return Acknowledged(body, replayed=False)
        if key is not None:
            stored = await self._stored(key)
            if stored is not None:
                return Acknowledged(body, replayed=True)
        await self._events.submit(
            self._votes(submission, specs, values, feedback_id, target, key, caller)
        )
        if key is not None:
            await self._stored(key)  # another body may have come first, by another gateway
        return Acknowledged(body, replayed=False)

    def _declared(self, submission: Submission) -> dict[str, MetricSpec]:
        declared = self._config.specs
        for name in submission.values:
            if name not in declared:
                raise InvalidField(
                    f"metric_name is {name!r}; declared: {', '.join(declared)}", "metric_name"
                )
        return {name: declared[name] for name in submission.values}

    def _checked(self, submission: Submission, specs: Mapping[str, MetricSpec]) -> dict[str, Value]:
        given = "inference" if submission.inference_id is not None else "episode"
        checked = {}
        for name, value in submission.values.items():
            spec = specs[name]
            if spec.level != given:
                raise InvalidField(
                    f"{name} is feedback on an {spec.level}; send {spec.level}_id, not {given}_id",
                    f"{given}_id",
                )
            field = submission.fields[name]
            try:
                checked[name] = check_value(spec, value, max_chars=self._config.max_comment_chars)
            except BadValue as error:
                raise InvalidField(f"{field} {error}", field) from None
        return checked

    def _target(self, submission: Submission, caller: Caller) -> str:
        """Return what the votes are about, after checking that it is the caller's own."""
        inference_id = submission.inference_id
        if inference_id is None:
            unit = resolve_unit({"x-session-id": submission.episode_id or ""}, {}, caller.tenant)
            assert unit is not None  # noqa: S101 (an episode id is not empty)
            return unit.id
        # The same words for an id of nobody and one of another tenant.
        if not self._ids.owned(inference_id, caller.tenant):
            raise InferenceNotFound(
                f"no request {inference_id[:80]!r} was answered here for this caller; send the "
                "'id' of the answer",
                "inference_id",
            )
        age_days = (time.time() - issued_at(inference_id)) / _DAY_S
        if age_days > self._config.max_age_days:
            raise InvalidField(
                f"the answer is {age_days:.0f} days old; feedback is taken for "
                f"{self._config.max_age_days:g} days",
                "inference_id",
            )
        return inference_id

    def _key(self, text: str | None, raw: dict[str, Any], caller: Caller) -> _Key | None:
        if text is None:
            return None
        if not 0 < len(text) <= _MAX_KEY_CHARS or not text.isascii() or not text.isprintable():
            raise InvalidField(
                f"Idempotency-Key must be 1 to {_MAX_KEY_CHARS} printable ASCII characters",
                "Idempotency-Key",
            )
        return _Key(
            digest=self._ids.digest("key", caller.tenant, text),
            request_hash=self._ids.digest("body", caller.tenant, text, _canonical(raw)),
        )

    async def _stored(self, key: _Key) -> StoredKey | None:
        stored = await asyncio.to_thread(self._lookup, key.digest)
        if key.conflicts_with(stored):
            raise IdempotencyConflict(
                "this Idempotency-Key came before with another body; use a new key for new "
                "feedback",
                "Idempotency-Key",
            )
        return stored

    def _votes(
        self,
        submission: Submission,
        specs: Mapping[str, MetricSpec],
        values: Mapping[str, Value],
        feedback_id: str,
        target: str,
        key: _Key | None,
        caller: Caller,
    ) -> list[Feedback]:
        now = time.time()
        redactor = Redactor()
        tags = {
            redactor.redact(name): redactor.redact(tag) for name, tag in submission.tags.items()
        }
        return [
            Feedback(
                feedback_id=feedback_id,
                received_at=now,
                tenant=caller.tenant,
                metric=name,
                metric_type=specs[name].kind,
                level=specs[name].level,
                direction=specs[name].direction,
                target=target,
                value=value.number,
                text=redactor.redact(value.text)
                if specs[name].kind == "comment" and value.text
                else value.text,
                tags=_canonical(tags),
                idempotency=key.digest if key else None,
                request_hash=key.request_hash if key else "",
                config_hash=self._config_hash,
            )
            for name, value in values.items()
        ]

    def _count(self, names: tuple[str, ...], result: str) -> None:
        for name in names:
            self._metrics.feedback.labels(name, result).inc()


def _canonical(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _feedback_id(key: _Key | None) -> str:
    """Return a new id; under an Idempotency-Key the one that the same body always gets."""
    if key is None:
        return f"fb-{new_uuid7()}"
    return f"fb-{key.request_hash[:32]}"
