"""From pairs of answers to paired statistics, one pass and flat memory."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from experiments.shadow.pairs import Answer, Pair
from experiments.stats.errors import StatisticsError, TooFewUnits
from experiments.stats.moments import MeanStats
from experiments.stats.paired import (
    Interval,
    ShareStats,
    mean_interval,
    rate_difference,
    share_interval,
)

_MAX_CHANGES = 5
"""Changed intents that are shown."""
_MAX_KEPT = 10_000
"""Different changes that are counted; intents are a model's words, and there may be many."""
_SHORTEST_S = 1e-6
"""Durations are at least this in ratios: a clock that stood still makes no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of both variants, with what the difference may be."""

    name: str
    shown: float | None
    """Mean over sessions of the variant that users saw; None where the metric has one value."""
    shadow: float | None
    interval: Interval | None
    """Of shadow minus shown, of the share that agrees, or of the ratio; None without an answer."""
    problem: str = ""
    waits: bool = False
    """Whether more sessions are all that is missing."""
    n_pairs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the pairs say."""

    n_pairs: int
    n_sessions: int
    first_at: float
    last_at: float
    alpha: float
    metrics: tuple[Metric, ...]
    changes: tuple[tuple[str, str, int], ...]
    """Most frequent changes of intent: shown, shadow, pairs."""


@dataclass(slots=True)
class _Sum:
    """Running sums of one value per session."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def as_mean(self) -> MeanStats:
        return MeanStats(n=self.n, sum=self.total, sum_squares=self.squares)

    def as_share(self) -> ShareStats:
        return ShareStats(n=self.n, successes=self.total, sum_squares=self.squares)


@dataclass(slots=True)
class _Rate:
    """A yes/no property of both answers of a pair."""

    shown: _Sum = field(default_factory=_Sum)
    shadow: _Sum = field(default_factory=_Sum)
    only_shown: _Sum = field(default_factory=_Sum)
    only_shadow: _Sum = field(default_factory=_Sum)
    difference: _Sum = field(default_factory=_Sum)
    n_pairs: int = 0

    def add(self, session: Sequence[Pair], event: Callable[[Answer], bool]) -> None:
        """Add a session's pairs."""
        if not session:
            return
        both = [(event(pair.shown), event(pair.shadow)) for pair in session]
        n = len(both)
        self.n_pairs += n
        self.shown.add(sum(a for a, _ in both) / n)
        self.shadow.add(sum(b for _, b in both) / n)
        only_shown = sum(a and not b for a, b in both) / n
        only_shadow = sum(b and not a for a, b in both) / n
        self.only_shown.add(only_shown)
        self.only_shadow.add(only_shadow)
        self.difference.add(only_shadow - only_shown)

    def metric(self, name: str, alpha: float) -> Metric:
        """Return the difference of the rates."""
        return _metric(
            name,
            self.shown.mean,
            self.shadow.mean,
            self.n_pairs,
            lambda: rate_difference(
                self.only_shadow.as_share(),
                self.only_shown.as_share(),
                self.difference.as_mean(),
                alpha=alpha,
            ),
        )


@dataclass(slots=True)
class _Amount:
    """A number of both answers of a pair."""

    shown: _Sum = field(default_factory=_Sum)
    shadow: _Sum = field(default_factory=_Sum)
    difference: _Sum = field(default_factory=_Sum)
    n_pairs: int = 0

    def add(self, values: Sequence[tuple[float, float]]) -> None:
        """Add a session's pairs of numbers."""
        if not values:
            return
        n = len(values)
        self.n_pairs += n
        self.shown.add(math.fsum(a for a, _ in values) / n)
        self.shadow.add(math.fsum(b for _, b in values) / n)
        self.difference.add(math.fsum(b - a for a, b in values) / n)

    def metric(self, name: str, alpha: float) -> Metric:
        """Return the difference of the means."""
        return _metric(
            name,
            self.shown.mean,
            self.shadow.mean,
            self.n_pairs,
            lambda: mean_interval(self.difference.as_mean(), alpha=alpha),
        )


def compare(found: Iterable[Pair], *, alpha: float = 0.05) -> Comparison:
    """Compare two variants on the requests that both answered.

    Sessions are the units, by the mean over their pairs; intervals are confidence sequences, each
    at `alpha` by itself.

    Args:
        found: Pairs, those of a session together.
        alpha: Error rate of each interval over all looks.
    """
    errors, valid, agreement = _Rate(), _Rate(), _Sum()
    latency, log_ratio, tokens = _Amount(), _Sum(), _Amount()
    changes: Counter[tuple[str, str]] = Counter()
    n_pairs = n_sessions = n_labelled = 0
    first_at, last_at = math.inf, -math.inf
    for _, group in groupby(found, key=attrgetter("session")):
        session = list(group)
        n_sessions += 1
        n_pairs += len(session)
        first_at = min(first_at, min(pair.at for pair in session))
        last_at = max(last_at, max(pair.at for pair in session))
        errors.add(session, lambda answer: answer.failed)
        answered = [p for p in session if not (p.shown.failed or p.shadow.failed)]
        # Answers that name no intent on either side are not of the kind that has one.
        valid.add([p for p in answered if p.shown.intent or p.shadow.intent], _valid)
        labelled = [
            (p.shown.intent, p.shadow.intent)
            for p in answered
            if p.shown.intent is not None and p.shadow.intent is not None
        ]
        n_labelled += len(labelled)
        if labelled:
            agreement.add(sum(a == b for a, b in labelled) / len(labelled))
        for change in labelled:
            if change[0] != change[1] and (change in changes or len(changes) < _MAX_KEPT):
                changes[change] += 1
        latency.add([(p.shown.duration_s, p.shadow.duration_s) for p in answered])
        if answered:
            log_ratio.add(math.fsum(map(_log_ratio, answered)) / len(answered))
        tokens.add(
            [
                (p.shown.completion_tokens, p.shadow.completion_tokens)
                for p in answered
                if p.shown.completion_tokens is not None and p.shadow.completion_tokens is not None
            ]
        )
    agrees = _metric(
        "intent_agreement",
        None,
        None,
        n_labelled,
        lambda: share_interval(agreement.as_share(), alpha=alpha),
    )
    ratio = _metric(
        "latency_ratio",
        None,
        None,
        latency.n_pairs,
        lambda: _exponential(mean_interval(log_ratio.as_mean(), alpha=alpha)),
    )
    return Comparison(
        n_pairs=n_pairs,
        n_sessions=n_sessions,
        first_at=first_at,
        last_at=last_at,
        alpha=alpha,
        metrics=(
            errors.metric("errors", alpha),
            valid.metric("valid_answers", alpha),
            agrees,
            latency.metric("latency_s", alpha),
            ratio,
            tokens.metric("tokens", alpha),
        ),
        changes=tuple(
            (shown, shadow, n)
            for (shown, shadow), n in sorted(changes.items(), key=lambda c: (-c[1], c[0]))
        )[:_MAX_CHANGES],
    )


def _valid(answer: Answer) -> bool:
    return answer.valid


def _log_ratio(pair: Pair) -> float:
    shown, shadow = pair.shown.duration_s, pair.shadow.duration_s
    return math.log(max(shadow, _SHORTEST_S) / max(shown, _SHORTEST_S))


def _exponential(interval: Interval) -> Interval:
    """Turn the interval of a mean logarithm into that of a geometric mean."""
    return Interval(
        estimate=math.exp(interval.estimate),
        lower=math.exp(interval.lower),
        upper=math.exp(interval.upper),
        method=f"{interval.method}_of_logs",
        n=interval.n,
    )


def _metric(
    name: str,
    shown: float | None,
    shadow: float | None,
    n_pairs: int,
    bound: Callable[[], Interval],
) -> Metric:
    interval, problem, waits = None, "", False
    try:
        interval = bound()
    except StatisticsError as error:
        problem, waits = str(error), isinstance(error, TooFewUnits)
    return Metric(
        name=name,
        shown=shown,
        shadow=shadow,
        interval=interval,
        problem=problem,
        waits=waits,
        n_pairs=n_pairs,
    )
