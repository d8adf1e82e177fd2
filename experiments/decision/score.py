"""The weighted score: satisfaction 3, leads 2, latency 1, confidence 1, as shown arithmetic.

Each scored metric gives its weight to the arm with the better point estimate. It ignores noise on
purpose and therefore only breaks ties that were shown to be ties.
"""

from collections.abc import Iterable

from experiments.decision.evidence import MetricEvidence, Population
from experiments.decision.policy import ScoreWeights
from experiments.decision.verdict import Score, ScoreLine
from experiments.stats.noninferiority import Direction


def weighted_score(metrics: Iterable[MetricEvidence], weights: ScoreWeights) -> Score | None:
    """Add up the points of both arms.

    Args:
        metrics: Evidence; those with a `score`, an effect and the intention-to-treat population
            count. An effect of exactly 0 gives no points.
        weights: Points per item.

    Returns:
        The score, or None if no metric is scored.
    """
    lines = []
    for metric in metrics:
        if metric.score is None or metric.effect is None:
            continue
        if metric.population is not Population.INTENTION_TO_TREAT:
            continue
        better = metric.effect if metric.direction is Direction.INCREASE else -metric.effect
        weight = float(getattr(weights, metric.score.value))
        lines.append(
            ScoreLine(
                item=metric.score.value,
                metric=metric.name,
                weight=weight,
                effect=better,
                points_a=weight if better < 0 else 0.0,
                points_b=weight if better > 0 else 0.0,
            )
        )
    if not lines:
        return None
    total_a = sum(line.points_a for line in lines)
    total_b = sum(line.points_b for line in lines)
    side_a = _sum([(line.points_a, line.item) for line in lines])
    side_b = _sum([(line.points_b, line.item) for line in lines])
    return Score(
        lines=tuple(lines),
        total_a=total_a,
        total_b=total_b,
        arithmetic=f"A = {side_a} = {total_a:g}; B = {side_b} = {total_b:g}",
    )


def _sum(points: list[tuple[float, str]]) -> str:
    terms = [f"{value:g} ({item})" for value, item in points if value]
    return " + ".join(terms) if terms else "0"
