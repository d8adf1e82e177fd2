"""Performance beside drift: mean, std, p95, p99, their degradation, and anomalous hours."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.drift.observations import Floats, Observations

Series = Literal["requests", "error_rate", "latency_mean_s", "tokens_mean"]
SERIES: tuple[Series, ...] = ("requests", "error_rate", "latency_mean_s", "tokens_mean")
_HOUR_S = 3600.0
_LEAST_REQUESTS = 10
"""Requests of an hour from which its means and rates are looked at."""
_LEAST_HOURS = 24
_MAD_TO_SIGMA = 1.4826
"""Normal consistency of the median absolute deviation."""
_FLOOR = {"requests": 1.0, "error_rate": 0.01, "latency_mean_s": 0.001, "tokens_mean": 1.0}
"""Least spread of a series, in its unit: a perfectly calm week must not make 1 % of errors a
thousand sigmas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How a variant performed; None where nothing was measured."""

    requests: int
    requests_per_hour: float
    error_rate: float | None
    latency_mean_s: float | None
    latency_std_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """What hours of a series are usually like."""

    by_hour: tuple[float, ...]
    """Median for each hour of the day (UTC)."""
    spread: float
    """Robust standard deviation around it."""
    n_hours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """An hour unlike the others."""

    series: Series
    hour: float
    """Its start, seconds since the epoch."""
    value: float
    usual: float
    z: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Something that got worse by more than the policy's share."""

    name: str
    reference: float
    current: float
    change: float | None
    """Relative; more is worse. None where there was nothing to compare with."""


def describe(seen: Observations, *, since: float, until: float) -> Performance:
    """Describe a window."""
    answers = seen.answers
    latency = answers.latency_s[np.isfinite(answers.latency_s)]
    n, some = int(answers.at.size), bool(latency.size)
    p50, p95, p99 = np.quantile(latency, [0.5, 0.95, 0.99]) if some else (None, None, None)
    return Performance(
        requests=n,
        requests_per_hour=n * _HOUR_S / max(1.0, until - since),
        error_rate=float(answers.failed.mean()) if n else None,
        latency_mean_s=float(latency.mean()) if some else None,
        latency_std_s=float(latency.std(ddof=1)) if latency.size > 1 else None,
        latency_p50_s=_number(p50),
        latency_p95_s=_number(p95),
        latency_p99_s=_number(p99),
    )


def degradations(reference: Performance, current: Performance, share: float) -> list[Degradation]:
    """Return what is worse by more than a share; descriptive, without a test."""
    found = []
    for name in ("latency_mean_s", "latency_p95_s", "latency_p99_s", "error_rate"):
        old, new = getattr(reference, name), getattr(current, name)
        if old is None or new is None:
            continue
        # Rates of next to nothing double by chance; they have to rise by something that counts.
        least = share * max(old, _FLOOR["error_rate"] if name == "error_rate" else 0.0)
        if new - old > least:
            change = (new - old) / old if old > 0 else None
            found.append(Degradation(name=name, reference=old, current=new, change=change))
    old, new = reference.requests_per_hour, current.requests_per_hour
    if old > 0 and (old - new) / old > share:
        found.append(
            Degradation(
                name="requests_per_hour", reference=old, current=new, change=(old - new) / old
            )
        )
    return found


def rhythms(seen: Observations, *, since: float, until: float) -> dict[str, Rhythm]:
    """Learn what hours are usually like; a series with less than a day of hours has none."""
    found: dict[str, Rhythm] = {}
    for name, (hours, values) in _hourly(seen, since, until).items():
        if values.size < _LEAST_HOURS:
            continue
        overall = float(np.median(values))
        day = ((hours // _HOUR_S) % 24).astype(int)
        usual = tuple(
            float(np.median(values[day == h])) if (day == h).any() else overall for h in range(24)
        )
        residual = values - np.array(usual)[day]
        mad = _MAD_TO_SIGMA * float(np.median(np.abs(residual)))
        spread = max(mad, float(residual.std()) / 2.0, _FLOOR[name])
        if name == "requests":
            spread = max(spread, math.sqrt(max(0.0, overall)))  # counts are at least Poisson
        found[name] = Rhythm(by_hour=usual, spread=spread, n_hours=int(values.size))
    return found


def anomalies(
    usual: dict[str, Rhythm], seen: Observations, *, since: float, until: float, z: float
) -> list[Anomaly]:
    """Return the whole hours whose robust z-score is at least `z` in size, worst first."""
    found = []
    for name, (hours, values) in _hourly(seen, since, until).items():
        if name not in usual:
            continue
        rhythm = usual[name]
        expected = np.array(rhythm.by_hour)[((hours // _HOUR_S) % 24).astype(int)]
        scores = (values - expected) / rhythm.spread
        found += [
            Anomaly(
                series=name,
                hour=float(hours[i]),
                value=float(values[i]),
                usual=float(expected[i]),
                z=float(scores[i]),
            )
            for i in np.flatnonzero(np.abs(scores) >= z)
        ]
    return sorted(found, key=lambda item: -abs(item.z))


def _hourly(seen: Observations, since: float, until: float) -> dict[Series, tuple[Floats, Floats]]:
    """Return every series as (start of hour, value) for the whole hours of a window."""
    first, last = math.ceil(since / _HOUR_S), math.floor(until / _HOUR_S)
    n_hours = max(0, last - first)
    answers = seen.answers
    code = (answers.at // _HOUR_S).astype(np.int64) - first
    inside = (code >= 0) & (code < n_hours)
    code = code[inside]
    starts: Floats = ((first + np.arange(n_hours)) * _HOUR_S).astype(np.float64)
    requests = np.bincount(code, minlength=n_hours).astype(np.float64)[:n_hours]
    failed = np.bincount(code, weights=answers.failed[inside], minlength=n_hours)[:n_hours]
    busy = requests >= _LEAST_REQUESTS
    series: dict[Series, tuple[Floats, Floats]] = {
        "requests": (starts, requests),
        "error_rate": (starts[busy], failed[busy] / requests[busy]),
    }
    measured: tuple[tuple[Series, Floats], ...] = (
        ("latency_mean_s", answers.latency_s[inside]),
        ("tokens_mean", answers.tokens[inside]),
    )
    for name, values in measured:
        known = np.isfinite(values)
        n = np.bincount(code[known], minlength=n_hours)[:n_hours]
        total = np.bincount(code[known], weights=values[known], minlength=n_hours)[:n_hours]
        enough = n >= _LEAST_REQUESTS
        series[name] = (starts[enough], total[enough] / n[enough])
    return series


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]  # numpy scalar
