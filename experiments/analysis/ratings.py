"""The votes that count, by session, in a small database of their own.

Votes are found by what they are about, sessions are read in the order of their units: joining the
two once, before the sessions are read, costs what there are votes and not what there are answers.
"""

import sqlite3
from pathlib import Path

from experiments.analysis.log import Log

_TABLE = """
CREATE TABLE ratings (
    unit TEXT NOT NULL, metric TEXT NOT NULL, target TEXT NOT NULL, tenant TEXT NOT NULL,
    value REAL NOT NULL, PRIMARY KEY (unit, metric, target, tenant)
) WITHOUT ROWID
"""

COUNTED = """
counted AS (
    SELECT metric, tenant, level, target, value FROM (
        SELECT metric, tenant, level, target, value,
            LEAD(1) OVER (
                PARTITION BY level, tenant, target, metric ORDER BY received_at, feedback_id
            ) IS NULL AS is_last
        FROM feedback WHERE ABS(value) < 1e15
    ) AS ranked WHERE is_last
)
"""
"""The votes that count, as a table of a query."""
_RATED = f"""
WITH {COUNTED}
SELECT o.unit, f.metric, f.target, f.tenant, f.value FROM counted AS f
JOIN outcomes AS o ON o.inference_id = f.target AND o.tenant = f.tenant
WHERE f.level = 'inference' AND o.experiment = :experiment AND o.version = :version
    AND o.exposure = 'enrolled'
UNION ALL
SELECT e.unit, f.metric, f.target, f.tenant, f.value FROM counted AS f
JOIN exposures AS e ON e.unit = f.target AND e.tenant = f.tenant
WHERE f.level = 'episode' AND e.experiment = :experiment AND e.version = :version
"""  # noqa: S608 (own text)


def make_ratings(log: Log, experiment: str, version: int, path: Path | None) -> sqlite3.Connection:
    """Collect the votes on an experiment's sessions and their answers.

    Of the votes on one answer (or session) and metric the last one counts.

    Args:
        log: The event file.
        experiment: Its name.
        version: Its version.
        path: New file to write; None keeps them in memory.

    Returns:
        The database: a table `ratings` by unit.
    """
    db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute(_TABLE)
    db.execute("BEGIN")
    db.executemany(
        "INSERT OR IGNORE INTO ratings VALUES (?, ?, ?, ?, ?)",
        log.rows(_RATED, {"experiment": experiment, "version": version}),
    )
    db.execute("COMMIT")
    return db
