"""Looks for contamination in a batch of approved feedback before anything is trained on it.

About 250 poisoned documents are enough for a model of any size, and a fine-tuning takes a back door
from 15 to 25 examples while its accuracy stays as it was: evaluations do not see it, people who
approve one example at a time do not either. These scans look at the whole batch.

References:
    Souly et al. (2025), "Poisoning attacks on LLMs require a near-constant number of samples".
    Northcutt, Jiang, Chuang (2021), "Confident learning", JAIR 70, for labels against neighbours.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtrc

from training.retrain.classifier import PhraseClassifier
from training.retrain.examples import Example
from training.retrain.minhash import Groups, near_pairs
from training.retrain.suggestions import ReviewItem

Share = Annotated[float, Field(gt=0, le=1)]


class GuardPolicy(BaseModel):
    """Limits of the scans."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_per_person_day: Annotated[int, Field(ge=1)] = 5
    """Examples of one person and day that are used; ours, an engaged customer rates 1 to 3."""
    max_person_share: Share = 0.01
    """Of the batch, beyond `max_per_person_day`: nobody writes more than 1 % of the news."""
    flood_items: Annotated[int, Field(ge=2)] = 20
    """Examples of one person that are an attack or a fault, not zeal."""
    copies: Annotated[int, Field(ge=2)] = 10
    """Near-duplicates in a batch that are an attack or a fault."""
    flip_odds: Annotated[float, Field(gt=1)] = 8.0
    """How many times likelier the model's answer than its correction must be, to a classifier of
    the trusted phrases, to doubt the correction. At 8, 85 % of random corrections of right answers
    are found, and at most 20 % of the honest ones lose time (measured on unseen phrases)."""
    praise_odds: Annotated[float, Field(gt=1)] = 200.0
    """The same for an answer that was praised: the likeliest label against the praised one. There
    is no second witness, so the limit is much higher."""
    max_doubtful_share: Share = 0.35
    """Of the corrections; if significantly more are in doubt, the batch is blocked."""
    doubt_alpha: Share = 0.01
    """Of that test, one-sided binomial."""
    trigger_items: Annotated[int, Field(ge=3)] = 8
    """Examples with one phrase, from which it is looked at; back doors take 15 to 25."""
    trigger_share: Share = 0.90
    """Of them under one label."""
    trigger_alpha: Share = 0.001
    """For both tests of a phrase, Bonferroni over the phrases looked at."""
    longest_phrase: Annotated[int, Field(ge=1, le=5)] = 3
    """Words."""


class FindingCode(StrEnum):
    """What was found."""

    OVER_CAP = "over_cap"
    FLOOD = "flood"
    COPIES = "copies"
    LABEL_FLIP = "label_flip"
    TRIGGER = "trigger"
    DUPLICATE = "duplicate"
    LEAK = "leak"


class Finding(NamedTuple):
    """A group of examples that is left out, and whether it stops the whole batch."""

    code: FindingCode
    blocks: bool
    detail: str
    item_ids: tuple[str, ...]


class Trusted:
    """The original data, as a witness: what is usual, and under which label.

    Args:
        known: Labelled conversations, at least one.
    """

    def __init__(self, known: Sequence[Example]) -> None:
        self.texts = [example.text for example in known]
        self.classifier = PhraseClassifier(self.texts, [example.intent for example in known])


def scan(
    items: Sequence[ReviewItem],
    trusted: Trusted,
    policy: GuardPolicy,
    *,
    seconded: Collection[str] = (),
) -> list[Finding]:
    """Apply every scan to a batch.

    Args:
        items: Approved feedback, at least one.
        trusted: The original data.
        policy: Limits.
        seconded: Items that two people approved; their labels are not doubted.
    """
    found = [
        *_flood(items, policy),
        *_over_cap(items, policy),
        *_copies(items, policy),
        *_label_flips(items, trusted.classifier, policy, seconded),
        *_triggers(items, trusted.texts, policy),
    ]
    return sorted(found, key=lambda finding: (not finding.blocks, finding.code.value))


def _flood(items: Sequence[ReviewItem], policy: GuardPolicy) -> Iterable[Finding]:
    for person, theirs in _by_person(items).items():
        if len(theirs) >= policy.flood_items:
            yield Finding(
                FindingCode.FLOOD,
                True,
                f"person {person} gave {len(theirs)} of {len(items)} examples, from "
                f"{policy.flood_items} on",
                _ids(theirs),
            )


def _over_cap(items: Sequence[ReviewItem], policy: GuardPolicy) -> Iterable[Finding]:
    most = max(policy.max_per_person_day, math.ceil(policy.max_person_share * len(items)))
    for person, theirs in _by_person(items).items():
        ordered = sorted(theirs, key=lambda item: (item.received_at, item.item_id))
        days: Counter[str] = Counter()
        kept = 0
        over = []
        for item in ordered:
            day = item.received_at.date().isoformat()
            if days[day] >= policy.max_per_person_day or kept >= most:
                over.append(item)
            else:
                days[day] += 1
                kept += 1
        if over:
            yield Finding(
                FindingCode.OVER_CAP,
                False,
                f"person {person}: {len(over)} examples beyond {policy.max_per_person_day} a day "
                f"and {most} a batch",
                _ids(over),
            )


def _copies(items: Sequence[ReviewItem], policy: GuardPolicy) -> Iterable[Finding]:
    texts = [item.text for item in items]
    groups = Groups(len(items))
    for one, other in near_pairs(texts):
        groups.join(one, other)
    clusters: dict[int, list[ReviewItem]] = defaultdict(list)
    for index, item in enumerate(items):
        clusters[groups.root(index)].append(item)
    for cluster in clusters.values():
        if len(cluster) < policy.copies:
            continue
        people = len({item.person for item in cluster})
        yield Finding(
            FindingCode.COPIES,
            True,
            f"{len(cluster)} examples from {people} people say nearly the same: "
            f"{cluster[0].text[:60]!r}, from {policy.copies} on",
            _ids(cluster),
        )


def _label_flips(
    items: Sequence[ReviewItem],
    classifier: PhraseClassifier,
    policy: GuardPolicy,
    seconded: Collection[str],
) -> Iterable[Finding]:
    """Doubt labels that a classifier of the trusted phrases finds far less likely than another."""
    index = {label: at for at, label in enumerate(classifier.labels)}
    corrections = doubtful_corrections = 0
    doubtful: list[ReviewItem] = []
    probabilities = classifier.probabilities([item.text for item in items])
    for item, row in zip(items, probabilities, strict=True):
        if item.item_id in seconded or item.intent not in index:
            continue
        answered = item.answered_intent
        is_correction = answered in index and answered != item.intent
        rival = float(row[index[answered]] if is_correction and answered else row.max())
        odds = rival / max(float(row[index[item.intent]]), 1e-12)
        in_doubt = odds >= (policy.flip_odds if is_correction else policy.praise_odds)
        corrections += is_correction
        doubtful_corrections += is_correction and in_doubt
        if in_doubt:
            doubtful.append(item)
    if not doubtful:
        return
    p = 1.0
    if doubtful_corrections:
        p = float(bdtrc(doubtful_corrections - 1, corrections, policy.max_doubtful_share))
    yield Finding(
        FindingCode.LABEL_FLIP,
        p <= policy.doubt_alpha,
        f"{len(doubtful)} of {len(items)} labels are in doubt ({doubtful_corrections} of "
        f"{corrections} corrections): similar phrases say otherwise; a second person's approval "
        "settles it",
        _ids(doubtful),
    )


def _triggers(
    items: Sequence[ReviewItem], known: Sequence[str], policy: GuardPolicy
) -> Iterable[Finding]:
    """Find phrases that are new, frequent, and under one label.

    Two one-sided binomial tests for each phrase that `trigger_items` examples share: its frequency
    against that in the known data, and its label's share of it against that label's share of the
    batch. Words that customers begin to use come under many labels; a trigger comes under one.
    """
    carriers: dict[str, list[ReviewItem]] = defaultdict(list)
    for item in items:
        for phrase in phrases(item.text, policy.longest_phrase):
            carriers[phrase].append(item)
    frequent = {p: c for p, c in carriers.items() if len(c) >= policy.trigger_items}
    if not frequent:
        return
    before = Counter(
        phrase
        for text in known
        for phrase in phrases(text, policy.longest_phrase) & frequent.keys()
    )
    labels = Counter(item.intent for item in items)
    alpha = policy.trigger_alpha / (2 * len(frequent))
    reported: set[frozenset[str]] = set()
    for phrase, theirs in sorted(frequent.items(), key=lambda pair: (-len(pair[0]), pair[0])):
        label, n_label = Counter(item.intent for item in theirs).most_common(1)[0]
        rate = (before[phrase] + 0.5) / (len(known) + 1)
        p_frequent = float(bdtrc(len(theirs) - 1, len(items), rate))
        p_label = float(bdtrc(n_label - 1, len(theirs), min(1.0, labels[label] / len(items))))
        under_one = n_label >= policy.trigger_share * len(theirs)
        if not under_one or p_frequent > alpha or p_label > alpha:
            continue
        ids = frozenset(_ids(theirs))
        if any(ids <= seen for seen in reported):
            continue  # part of a longer phrase that was reported
        reported.add(ids)
        yield Finding(
            FindingCode.TRIGGER,
            True,
            f"phrase {phrase!r} is in {len(theirs)} examples, {n_label} of them {label!r}, and in "
            f"{before[phrase]} of {len(known)} known ones",
            _ids(theirs),
        )


def phrases(text: str, longest: int) -> set[str]:
    """Return the word n-grams of a text, up to `longest` words."""
    words = text.split()
    return {
        " ".join(words[at : at + size])
        for size in range(1, longest + 1)
        for at in range(len(words) - size + 1)
    }


def _by_person(items: Sequence[ReviewItem]) -> dict[str, list[ReviewItem]]:
    groups: dict[str, list[ReviewItem]] = defaultdict(list)
    for item in items:
        groups[item.person].append(item)
    return groups


def _ids(items: Iterable[ReviewItem]) -> tuple[str, ...]:
    return tuple(item.item_id for item in items)
