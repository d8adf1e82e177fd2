"""Feedback as a measure: every session counts once, by the mean of the votes that count.

Of the votes on one answer (or session) and metric the last one counts. Votes on answers are joined
with the session through the answer's outcome, votes on sessions directly.
"""

from experiments.analysis.log import OUTCOMES_OF_UNIT, Log, Scope
from experiments.analysis.sums import CLEAN, DAY, Cell, Moments

_RATED = """
WITH counted AS (
    SELECT tenant, level, target, value FROM (
        SELECT tenant, level, target, value, ROW_NUMBER() OVER (
            PARTITION BY tenant, level, target ORDER BY received_at DESC, feedback_id DESC
        ) AS place
        FROM feedback WHERE metric = :metric AND ABS(value) < 1e15
    ) WHERE place = 1
), by_unit AS (
    SELECT o.unit AS unit, f.value AS value FROM counted AS f
    JOIN outcomes AS o ON o.inference_id = f.target AND o.tenant = f.tenant
    WHERE f.level = 'inference' AND o.experiment = :experiment AND o.version = :version
        AND o.exposure = 'enrolled'
    UNION ALL
    SELECT e.unit, f.value FROM counted AS f
    JOIN exposures AS e ON e.unit = f.target AND e.tenant = f.tenant
    WHERE f.level = 'episode' AND e.experiment = :experiment AND e.version = :version
), rated AS (
    SELECT unit, AVG(value) AS value FROM by_unit GROUP BY unit
)
"""


def aggregate_votes(log: Log, scope: Scope, metric: str, *, key: str = DAY) -> list[Cell]:
    """Return the sums of a feedback metric; x is the session's mean vote, y is 1.

    Args:
        log: The event file.
        scope: What is analysed.
        metric: Name of the feedback metric.
        key: SQL over the exposure `e`, as for the outcomes.
    """
    sql = f"""{_RATED}
    SELECT treatment, key, clean, COUNT(*), COUNT(*) FILTER (WHERE value > 0), SUM(value),
        SUM(value * value)
    FROM (
        SELECT e.variant = :treatment AS treatment, {key} AS key, {CLEAN} AS clean,
            rated.value AS value
        FROM rated JOIN exposures AS e ON e.experiment = :experiment AND e.version = :version
            AND e.unit = rated.unit
        LEFT JOIN {OUTCOMES_OF_UNIT}
        WHERE {scope.where}
        GROUP BY e.unit
    )
    GROUP BY treatment, key, clean ORDER BY treatment, key, clean
    """  # noqa: S608 (own expressions; values are parameters)
    return [
        Cell(
            treatment=bool(row[0]),
            key=row[1],
            clean=bool(row[2]),
            moments={
                metric: Moments(
                    n=row[3],
                    positive=row[4],
                    x=row[5],
                    xx=row[6],
                    y=row[3],
                    yy=row[3],
                    xy=row[5],
                )
            },
        )
        for row in log.rows(sql, scope.parameters() | {"metric": metric})
    ]
