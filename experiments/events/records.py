"""The records of the event log.

Records are immutable and idempotent: storing one twice changes nothing, so transport may repeat.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

SCHEMA_VERSION = 3
"""Version of the records and of the tables. Readers refuse newer ones.

2 added feedback, transcripts, and the labels that an answer gives itself; 3 gave every event its
place in the log, in the tables only.
"""

CacheState = Literal["hit", "miss", "join", "bypass"]
ExposureState = Literal["enrolled", "none", "pinned", "override", "holdout", "shadow"]
"""Only `enrolled` units were assigned by chance and are compared. `override` and `holdout` name the
experiment that the unit is kept out of. `shadow` is the answer to a copy of a request, which nobody
saw: `request_id` is then the inference id of the answer that was seen, and `experiment` the name of
the shadow."""
OutcomeStatus = Literal["ok", "error", "aborted"]
FeedbackKind = Literal["boolean", "float", "integer", "category", "comment"]
FeedbackLevel = Literal["inference", "episode"]
FeedbackDirection = Literal["increase", "decrease", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A unit was about to be served by a variant of an experiment.

    Counted once per (experiment, version, unit): the first one wins. A later one with another
    variant, as after a ramp, is kept apart as a conflict and never overwrites.
    """

    experiment: str
    version: int
    unit: str
    variant: str
    probability: float
    """Probability of this assignment under the split that made it, in (0, 1]."""
    bucket: int
    exposed_at: float
    """Seconds since the epoch, UTC."""
    inference_id: str
    served_model: str
    tenant: str
    config_hash: str
    model_sha256: str
    """Weights that the gateway last saw on the variant; empty before it saw any."""
    cached: bool
    """Whether the answer came from the response cache."""
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A unit comes under a split that moves; `exposure` is what it would get of the split of now.

    What is kept is the unit's first exposure, and that variant answers: another one now is nothing
    that happened, so there is no conflict. In files of lines it is the exposure.
    """

    exposure: Exposure


class Kept(NamedTuple):
    """What the log keeps of a unit's first exposure."""

    variant: str
    probability: float
    """Of the assignment when it was made."""
    bucket: int
    config_hash: str
    """Of the configuration that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended. Keyed by `inference_id`, the id in the OpenAI reply."""

    inference_id: str
    request_id: str
    finished_at: float
    served_model: str
    tenant: str
    variant: str
    experiment: str | None
    version: int | None
    unit: str | None
    exposure: ExposureState
    status: OutcomeStatus
    error_code: str | None
    cache: CacheState
    stream: bool
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    duration_s: float
    ttft_s: float | None
    """Seconds to the first token; None if there was none."""
    retries: int
    config_hash: str
    model_sha256: str
    """Weights that answered; empty if none did."""
    intent: str | None = None
    """The `intent` that a JSON answer names."""
    confidence: float | None = None
    """The `confidence` that a JSON answer claims, in [0, 1]."""
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What somebody said about one answer, or about a session, on one declared metric.

    Every vote is kept; of those on one target and metric the last one counts. What the metric meant
    when the vote came is part of the record, so that a later configuration cannot reinterpret it.
    """

    feedback_id: str
    """One submission, which may carry several metrics."""
    received_at: float
    """Seconds since the epoch by the gateway's clock; clients have no say."""
    tenant: str
    metric: str
    metric_type: FeedbackKind
    level: FeedbackLevel
    direction: FeedbackDirection
    target: str
    """The inference id, or the unit of the session."""
    value: float | None
    """Numbers, and 1 or 0 for yes and no."""
    text: str | None
    """A category, or a comment without personal data."""
    tags: str
    """A JSON object of texts, without personal data."""
    idempotency: str | None
    """Keyed hash of the client's Idempotency-Key."""
    request_hash: str
    """Keyed hash of the body, to tell a replay from another body under the same key."""
    config_hash: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was said in one request, without personal data. Only kept where text capture is on."""

    inference_id: str
    captured_at: float
    tenant: str
    messages: str
    """A JSON array of `{"role", "content"}`."""
    answer: str
    unrated_until: float
    """Deleted after this moment unless there is feedback on the answer by then."""
    keep_until: float
    """Deleted after this moment in any case."""
    schema_version: int = SCHEMA_VERSION


Event = Exposure | Enrolment | Outcome | Feedback | Transcript

_KINDS: dict[str, type[Event]] = {
    "exposure": Exposure,
    "outcome": Outcome,
    "feedback": Feedback,
    "transcript": Transcript,
}
_NAMES = {record: kind for kind, record in _KINDS.items()}


def encode(event: Event) -> str:
    """Return one line of JSON, for spool files."""
    if isinstance(event, Enrolment):
        event = event.exposure
    kind = _NAMES[type(event)]
    return json.dumps({"kind": kind, **asdict(event)}, ensure_ascii=True, sort_keys=True)


def decode(line: str) -> Event:
    """Parse what `encode` wrote.

    Raises:
        ValueError: If the line is damaged, of an unknown kind, or written by a newer version.
    """
    try:
        raw: dict[str, Any] = json.loads(line)
        record = _KINDS[raw.pop("kind")]
        if raw["schema_version"] > SCHEMA_VERSION:
            raise ValueError(
                f"event has schema version {raw['schema_version']!r}; this build reads up to "
                f"{SCHEMA_VERSION}"
            )
        return record(**raw)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not an event: {line[:200]!r}") from error
