"""What feedback tells: which intents are weak, what is complained of, what is made up, per variant.

All rates are among answers that somebody rated. Who rates is not chance: an intent may look weak
because only the annoyed rate it. Read them as where to look first.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.events.votes import Vote
from experiments.feedback.answers import RatedAnswer, rated_answers
from experiments.feedback.arms import Arm, Difference, UnitVotes, arm, differences
from experiments.feedback.claims import Claim, claims_in
from experiments.feedback.metrics import HALLUCINATIONS, Category
from experiments.stats.moments import ProportionStats
from experiments.stats.proportions import Interval, newcombe_interval, wilson_interval

_NUMERIC = frozenset({"boolean", "float", "integer"})
_MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How feedback is analysed."""

    alpha: float = 0.05
    """Error rate of every statement; shared between the intents (Bonferroni)."""
    control: str = "stable"
    """Variant that the others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentQuality:
    """How the answers with one intent were rated."""

    intent: str
    n_rated: int
    n_blamed: int
    n_wrong_intent: int
    """Answers whose intent itself was called wrong."""
    interval: Interval
    """Of the blamed share, at the error rate divided by the number of intents."""
    weak: bool
    """The whole interval is above the share of all rated answers."""

    @property
    def blamed_rate(self) -> float:
        """Share of rated answers that were blamed."""
        return self.n_blamed / self.n_rated


@dataclass(frozen=True, slots=True, kw_only=True)
class HallucinationPattern:
    """A kind of claim, in answers called untrue and in praised ones."""

    claim: Claim
    n_untrue: int
    of_untrue: int
    n_praised: int
    of_praised: int
    interval: Interval | None
    """Of the difference of the two shares (Newcombe); None if one side has no text."""

    @property
    def suspicious(self) -> bool:
        """The claim is surely more common in untrue answers."""
        return self.interval is not None and self.interval.lower > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An answer that was called untrue, without personal data."""

    inference_id: str
    category: str
    variant: str | None
    intent: str | None
    answer: str | None
    correction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """A numeric metric, in every experiment and variant; `experiment` is None outside of any."""

    metric: str
    direction: str
    level: str
    experiment: str | None
    version: int | None
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything that `carril feedback analyze` and `report` show."""

    n_votes: int
    """Votes that count."""
    n_replaced: int
    """Earlier votes on the same target and metric."""
    n_unjoined: int
    """Votes whose answer (or session) is not stored, or not yet."""
    n_answers: int
    """Rated answers."""
    n_with_text: int
    n_praised: int
    n_blamed: int
    first_at: float | None
    last_at: float | None
    metrics: tuple[MetricResult, ...]
    categories: dict[str, dict[str, int]]
    """Votes per category, then per variant; `?` where the answer is not stored."""
    intents: tuple[IntentQuality, ...]
    """The worst first."""
    patterns: tuple[HallucinationPattern, ...]
    examples: tuple[Example, ...]


def analyze(votes: Iterable[Vote], settings: Settings) -> Analysis:
    """Analyse the votes that count, in one pass.

    Args:
        votes: In the order of `read_votes`.
        settings: Error rate and control.
    """
    tally = _Tally()

    def seen() -> Iterable[Vote]:
        for vote in votes:
            tally.add_vote(vote)
            yield vote

    for rated in rated_answers(seen()):
        tally.add_answer(rated)
    return tally.result(settings)


class _Tally:
    """Counts while votes go by."""

    def __init__(self) -> None:
        self.n_votes = self.n_replaced = self.n_unjoined = 0
        self.n_answers = self.n_with_text = self.n_praised = self.n_blamed = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.metrics: dict[tuple[str, str, str, str | None, int | None], dict[str, UnitVotes]] = {}
        self.categories: dict[str, Counter[str]] = defaultdict(Counter)
        self.intents: dict[str, Counter[str]] = defaultdict(Counter)
        self.untrue: Counter[Claim] = Counter()
        self.praised: Counter[Claim] = Counter()
        self.n_untrue_texts = self.n_praised_texts = 0
        self.examples: list[Example] = []
        self.textless: list[Example] = []

    def add_vote(self, vote: Vote) -> None:
        self.n_votes += 1
        self.n_replaced += vote.n_votes - 1
        self.n_unjoined += not vote.joined
        self.first_at = min(self.first_at or vote.received_at, vote.received_at)
        self.last_at = max(self.last_at or vote.received_at, vote.received_at)
        if vote.metric_type == "category" and vote.text is not None:
            self.categories[vote.text][vote.variant or "?"] += 1
        if vote.metric_type in _NUMERIC and vote.value is not None and vote.variant is not None:
            # Only enrolled units were assigned by chance; the others are shown, never compared.
            enrolled = vote.exposure == "enrolled"
            key = (
                vote.metric,
                vote.direction,
                vote.level,
                vote.experiment if enrolled else None,
                vote.version if enrolled else None,
            )
            arms = self.metrics.setdefault(key, defaultdict(UnitVotes))
            arms[vote.variant].add(vote.unit or vote.target, vote.value)

    def add_answer(self, rated: RatedAnswer) -> None:
        vote = rated.latest
        self.n_answers += 1
        self.n_praised += rated.praised
        self.n_blamed += rated.blamed
        self.n_with_text += vote.answer is not None
        if vote.intent is not None:
            counts = self.intents[vote.intent]
            counts["rated"] += 1
            counts["blamed"] += rated.blamed
            counts["wrong_intent"] += rated.category == Category.WRONG_INTENT
        untrue = rated.category in HALLUCINATIONS
        examples = self.examples if vote.answer is not None else self.textless
        if untrue and len(examples) < _MAX_EXAMPLES:
            examples.append(
                Example(
                    inference_id=vote.target,
                    category=rated.category or "",
                    variant=vote.variant,
                    intent=vote.intent,
                    answer=vote.answer,
                    correction=rated.correction,
                )
            )
        if vote.answer is None:
            return
        if untrue:
            self.n_untrue_texts += 1
            self.untrue.update(claims_in(vote.answer))
        elif rated.praised:
            self.n_praised_texts += 1
            self.praised.update(claims_in(vote.answer))

    def result(self, settings: Settings) -> Analysis:
        return Analysis(
            n_votes=self.n_votes,
            n_replaced=self.n_replaced,
            n_unjoined=self.n_unjoined,
            n_answers=self.n_answers,
            n_with_text=self.n_with_text,
            n_praised=self.n_praised,
            n_blamed=self.n_blamed,
            first_at=self.first_at,
            last_at=self.last_at,
            metrics=self._metrics(settings),
            categories={
                category: dict(sorted(variants.items()))
                for category, variants in sorted(
                    self.categories.items(), key=lambda item: (-item[1].total(), item[0])
                )
            },
            intents=self._intents(settings),
            patterns=self._patterns(settings),
            examples=tuple([*self.examples, *self.textless][:_MAX_EXAMPLES]),
        )

    def _metrics(self, settings: Settings) -> tuple[MetricResult, ...]:
        results = []
        ordered = sorted(self.metrics.items(), key=lambda item: tuple(str(k) for k in item[0]))
        for (metric, direction, level, experiment, version), votes in ordered:
            compared = (
                differences(votes, control=settings.control, alpha=settings.alpha)
                if experiment is not None
                else []
            )
            results.append(
                MetricResult(
                    metric=metric,
                    direction=direction,
                    level=level,
                    experiment=experiment,
                    version=version,
                    arms=tuple(
                        arm(variant, votes[variant], alpha=settings.alpha)
                        for variant in sorted(votes)
                    ),
                    differences=tuple(compared),
                )
            )
        return tuple(results)

    def _intents(self, settings: Settings) -> tuple[IntentQuality, ...]:
        n_rated = sum(counts["rated"] for counts in self.intents.values())
        overall = sum(counts["blamed"] for counts in self.intents.values()) / max(1, n_rated)
        rows = []
        for intent, counts in self.intents.items():
            share = ProportionStats(n=counts["rated"], successes=counts["blamed"])
            interval = wilson_interval(share, alpha=settings.alpha / len(self.intents))
            rows.append(
                IntentQuality(
                    intent=intent,
                    n_rated=counts["rated"],
                    n_blamed=counts["blamed"],
                    n_wrong_intent=counts["wrong_intent"],
                    interval=interval,
                    weak=interval.lower > overall,
                )
            )
        return tuple(sorted(rows, key=lambda row: (-row.interval.lower, row.intent)))

    def _patterns(self, settings: Settings) -> tuple[HallucinationPattern, ...]:
        rows = []
        for claim in Claim:
            if not self.untrue[claim] and not self.praised[claim]:
                continue
            interval = None
            if self.n_untrue_texts and self.n_praised_texts:
                interval = newcombe_interval(
                    ProportionStats(n=self.n_praised_texts, successes=self.praised[claim]),
                    ProportionStats(n=self.n_untrue_texts, successes=self.untrue[claim]),
                    alpha=settings.alpha / len(Claim),
                )
            rows.append(
                HallucinationPattern(
                    claim=claim,
                    n_untrue=self.untrue[claim],
                    of_untrue=self.n_untrue_texts,
                    n_praised=self.praised[claim],
                    of_praised=self.n_praised_texts,
                    interval=interval,
                )
            )
        return tuple(sorted(rows, key=lambda row: (-row.n_untrue, row.claim)))
