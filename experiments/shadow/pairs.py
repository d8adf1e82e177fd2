"""Pairs of answers from the event log: one that a user saw, one that a shadow gave to the copy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from experiments.analysis.errors import NothingToCompare, UnknownExperiment
from experiments.analysis.log import Log

_JOIN = """
FROM outcomes AS s JOIN outcomes AS p ON p.inference_id = s.request_id AND p.tenant = s.tenant
WHERE s.experiment = :name AND s.exposure = 'shadow'
"""
_WEIGHTS = f"""
SELECT p.variant, s.variant, p.model_sha256, s.model_sha256, MAX(s.finished_at) AS last_at
{_JOIN} AND p.status = 'ok' AND s.status = 'ok'
GROUP BY p.variant, s.variant, p.model_sha256, s.model_sha256 ORDER BY last_at DESC
"""
_PAIRS = f"""
SELECT COALESCE(p.unit, p.inference_id) AS session, s.finished_at, p.status, s.status,
    p.finish_reason, s.finish_reason, p.intent, s.intent, p.duration_s, s.duration_s,
    p.completion_tokens, s.completion_tokens
{_JOIN} AND p.variant = :of AND s.variant = :variant AND s.finished_at > :since
ORDER BY session, s.finished_at
"""
_NAMES = "SELECT DISTINCT experiment FROM outcomes WHERE exposure = 'shadow'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Which two models a comparison is about, and from when on."""

    of: str
    variant: str
    of_sha256: str
    variant_sha256: str
    since: float
    """Pairs finished at this moment or earlier had other weights; 0 if there are none."""


class Answer(NamedTuple):
    """One answer of a pair."""

    status: str
    finish_reason: str | None
    intent: str | None
    duration_s: float
    completion_tokens: int | None

    @property
    def failed(self) -> bool:
        """Whether there was no answer."""
        return self.status != "ok"

    @property
    def valid(self) -> bool:
        """Whether it ended by itself and is a JSON object that names an intent.

        Of a model with an answer schema every answer that ended by itself fits it, because the
        grammar allows nothing else; what was cut off is no JSON.
        """
        return not self.failed and self.finish_reason == "stop" and self.intent is not None


class Pair(NamedTuple):
    """A request answered twice."""

    session: str
    at: float
    shown: Answer
    shadow: Answer


def latest(log: Log, name: str) -> Compared:
    """Return the models that were compared last under a name.

    Raises:
        UnknownExperiment: If the log has no such shadow.
        NothingToCompare: If no copy was answered yet.
    """
    found = list(log.rows(_WEIGHTS, {"name": name}))
    if not found:
        known = sorted(str(row[0]) for row in log.rows(_NAMES))
        if name in known:
            raise NothingToCompare(
                f"no copy of {name!r} was answered yet; look at carril_shadow_requests_total in "
                "/metrics, and at the shadow's variant in /readyz"
            )
        raise UnknownExperiment(
            f"no shadow {name!r} in the event log; there: {', '.join(known) or 'none'}. Declare "
            "one under 'shadow' in the gateway's user_config"
        )
    of, variant, of_sha256, variant_sha256, _ = found[0]
    return Compared(
        of=of,
        variant=variant,
        of_sha256=of_sha256,
        variant_sha256=variant_sha256,
        since=max((float(row[4]) for row in found[1:]), default=0.0),
    )


def pairs(log: Log, name: str, compared: Compared) -> Iterator[Pair]:
    """Yield the pairs of a comparison, those of a session together."""
    parameters = {
        "name": name,
        "of": compared.of,
        "variant": compared.variant,
        "since": compared.since,
    }
    for row in log.rows(_PAIRS, parameters):
        yield Pair(
            session=row[0],
            at=row[1],
            shown=Answer(row[2], row[4], row[6], row[8], row[10]),
            shadow=Answer(row[3], row[5], row[7], row[9], row[11]),
        )
