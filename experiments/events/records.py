"""The records of the event log.

Records are immutable and idempotent: storing one twice changes nothing, so transport may repeat.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_VERSION = 1
"""Version of the records and of the tables. Readers refuse newer ones."""

CacheState = Literal["hit", "miss", "join", "bypass"]
ExposureState = Literal["enrolled", "none", "pinned"]
OutcomeStatus = Literal["ok", "error", "aborted"]


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
    schema_version: int = SCHEMA_VERSION


Event = Exposure | Outcome

_KINDS: dict[str, type[Exposure] | type[Outcome]] = {"exposure": Exposure, "outcome": Outcome}


def encode(event: Event) -> str:
    """Return one line of JSON, for spool files."""
    kind = "exposure" if isinstance(event, Exposure) else "outcome"
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
