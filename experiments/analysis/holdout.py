"""What all experiments together have brought: the holdout beside everybody else.

Who is held out is decided before anything else, by a hash of its own: so those that are not, in an
experiment or in none, are the same kind of people. The unit is the session.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.analysis.errors import NothingToCompare
from experiments.analysis.log import Log
from experiments.analysis.measures import FEEDBACK_PREFIX, LONGEST_S
from experiments.analysis.ratings import COUNTED
from experiments.stats.analysis import Arm, MetricInput, Sequential, SequentialMethod, analyze
from experiments.stats.comparison import Comparison
from experiments.stats.errors import StatisticsError
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.ratio import RatioStats
from experiments.stats.sequential import check_burn_in
from experiments.stats.srm import chi2_srm, sequential_srm

SRM_ALPHA = 0.01
"""Anytime-valid p-value at or below which the holdout is not the declared share; the default of the
decision's policy."""
MAX_BOTH_SHARE = 0.01
"""Share of sessions on both sides, as after another percentage, that is still tolerated."""

_FRESH = (
    "status = 'ok' AND cache NOT IN ('hit', 'join') AND duration_s >= 0 "
    f"AND duration_s <= {LONGEST_S}"
)
"""Answers that were made for the request: these have a latency."""
_SESSIONS = f"""
sessions AS (
    SELECT unit,
        MAX(CASE WHEN exposure = 'holdout' THEN 1 ELSE 0 END) AS held,
        MIN(CASE WHEN exposure = 'holdout' THEN 1 ELSE 0 END) AS always_held,
        COUNT(*) AS requests,
        MAX(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS failed,
        SUM(CASE WHEN {_FRESH} THEN duration_s ELSE 0.0 END) AS latency,
        SUM(CASE WHEN {_FRESH} THEN 1 ELSE 0 END) AS answers
    FROM outcomes
    WHERE unit IS NOT NULL AND exposure IN ('holdout', 'enrolled', 'none')
        AND finished_at >= :since AND served_model IN (
            SELECT served_model FROM outcomes WHERE exposure = 'holdout'
        )
    GROUP BY unit
)
"""  # noqa: S608 (own text)
"""Of the same served models: those that the holdout is for."""
_SUMS = f"""
WITH {_SESSIONS}
SELECT held, COUNT(*), SUM(failed), SUM(requests), SUM(requests * requests),
    SUM(CASE WHEN answers > 0 THEN 1 ELSE 0 END), SUM(latency), SUM(latency * latency),
    SUM(answers), SUM(answers * answers), SUM(latency * answers)
FROM sessions WHERE held = always_held GROUP BY held ORDER BY held
"""  # noqa: S608 (own text)
_BOTH = f"WITH {_SESSIONS} SELECT COUNT(*) FROM sessions WHERE held <> always_held"  # noqa: S608
_VOTES = f"""
WITH {_SESSIONS}, {COUNTED}, rated AS (
    SELECT o.unit, f.metric, f.value FROM counted AS f
    JOIN outcomes AS o ON o.inference_id = f.target AND o.tenant = f.tenant
    WHERE f.level = 'inference' AND o.exposure IN ('holdout', 'enrolled', 'none')
    UNION ALL
    SELECT f.target, f.metric, f.value FROM counted AS f WHERE f.level = 'episode'
), means AS (
    SELECT s.held, r.metric, r.unit, AVG(r.value) AS value
    FROM rated AS r JOIN sessions AS s ON s.unit = r.unit
    WHERE s.held = s.always_held GROUP BY s.held, r.metric, r.unit
)
SELECT metric, held, COUNT(*), SUM(value), SUM(value * value)
FROM means GROUP BY metric, held ORDER BY metric, held
"""  # noqa: S608 (own text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A metric of both sides."""

    name: str
    comparison: Comparison | None
    """Everybody else minus holdout; None where it cannot be told yet."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """The holdout beside everybody else."""

    sessions: Mapping[str, int]
    """`holdout` and `others`."""
    declared_share: float
    both: int
    """Sessions that were on both sides; they are left out."""
    srm_p: float
    """Anytime-valid p-value of the declared share."""
    srm_chi2_p: float
    conflicts: tuple[str, ...]
    """Why the comparison cannot be believed."""
    rows: tuple[Row, ...]


def compare_holdout(
    log: Log, *, declared_share: float, since: float = 0.0, alpha: float = 0.05
) -> Holdout:
    """Compare the holdout with everybody else.

    Intervals hold at all looks together, each by itself.

    Args:
        log: The events.
        declared_share: Share of units that are held out, in (0, 1).
        since: Only answers from this moment on, seconds since the epoch: for a share that changed.
        alpha: Error rate of each interval.

    Raises:
        NothingToCompare: If one side has no session.
    """
    found = {int(held): row for held, *row in log.rows(_SUMS, {"since": since})}
    if found.keys() != {0, 1}:
        raise NothingToCompare(
            "there is nothing to compare: no session was held out"
            if 1 not in found
            else "there is nothing to compare: all sessions were held out"
        )
    counts = {"holdout": int(found[1][0]), "others": int(found[0][0])}
    weights = {"holdout": declared_share, "others": 1.0 - declared_share}
    both = int(log.row(_BOTH, {"since": since})[0])
    srm_p = sequential_srm([counts], weights).p_value
    conflicts = []
    if srm_p <= SRM_ALPHA:
        total = sum(counts.values())
        conflicts.append(
            f"{counts['holdout']} of {total} sessions were held out, declared are "
            f"{declared_share:.2%} (p {srm_p:.3g}); if the share was changed, use --since"
        )
    if both > MAX_BOTH_SHARE * sum(counts.values()):
        conflicts.append(
            f"{both} sessions were held out at one time and not at another; use --since with the "
            "moment of the change"
        )
    arms = {held: _arms(row) for held, row in found.items()}
    votes: dict[str, dict[int, MeanStats]] = {}
    for metric, held, n, total, squares in log.rows(_VOTES, {"since": since}):
        one = MeanStats(n=int(n), sum=float(total), sum_squares=float(squares))
        votes.setdefault(f"{FEEDBACK_PREFIX}{metric}", {})[int(held)] = one
    rows = [_row(name, arms[1][name], arms[0][name], alpha) for name in arms[0]]
    nobody = MeanStats(n=0, sum=0.0, sum_squares=0.0)
    rows += [
        _row(name, sides.get(1, nobody), sides.get(0, nobody), alpha)
        for name, sides in votes.items()
    ]
    return Holdout(
        sessions=counts,
        declared_share=declared_share,
        both=both,
        srm_p=srm_p,
        srm_chi2_p=chi2_srm(counts, weights).p_value,
        conflicts=tuple(conflicts),
        rows=tuple(rows),
    )


def _arms(row: "list[object]") -> dict[str, Arm]:
    numbers = [float(value or 0.0) for value in row]  # type: ignore[arg-type]  # sums: int, float or Decimal
    n, failed, requests, squares, with_answers, latency, latency_squares, answers, *rest = numbers
    answers_squares, products = rest
    return {
        "errors": ProportionStats(n=int(n), successes=int(failed)),
        "requests": MeanStats(n=int(n), sum=requests, sum_squares=squares),
        "latency": RatioStats(
            n=int(with_answers),
            sum=latency,
            sum_squares=latency_squares,
            denominator_sum=answers,
            denominator_sum_squares=answers_squares,
            sum_products=products,
        ),
    }


def _row(name: str, holdout: Arm, others: Arm, alpha: float) -> Row:
    rate = isinstance(holdout, ProportionStats)
    method = SequentialMethod.RATE_HEDGED if rate else SequentialMethod.ASYMPTOTIC_CS
    metric = MetricInput(
        name=name,
        control=holdout,
        treatment=others,
        alpha=alpha,
        sequential=Sequential(method=method),
    )
    try:
        if not rate:
            check_burn_in(holdout.n, others.n)
        return Row(name=name, comparison=analyze(metric))
    except StatisticsError as error:
        return Row(name=name, comparison=None, problem=str(error))
