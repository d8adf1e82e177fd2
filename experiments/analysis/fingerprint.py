"""The hash of the events that an analysis used, so that evidence can be matched with its log."""

import hashlib

from experiments.analysis.log import Log

_PIECE = 20_000
"""Events whose text SQLite joins before it is hashed: memory stays flat, Python out of the way."""

_EXPOSURES = """
SELECT unit || '|' || variant || '|' || probability || '|' || bucket || '|' || exposed_at || '|'
    || inference_id || '|' || tenant || '|' || config_hash || '|' || model_sha256 || '|' || cached
    AS line
FROM {table} WHERE experiment = :experiment AND version = :version AND unit > :after
    AND unit <= :last
ORDER BY unit, variant
"""
_OUTCOMES = """
SELECT unit || '|' || inference_id || '|' || finished_at || '|' || variant || '|' || exposure || '|'
    || status || '|' || cache || '|' || duration_s || '|' || COALESCE(ttft_s, '') || '|'
    || COALESCE(completion_tokens, '') || '|' || COALESCE(confidence, '') AS line
FROM outcomes WHERE experiment = :experiment AND version = :version AND unit > :after
    AND unit <= :last
ORDER BY unit, inference_id
"""
_VOTES = """
SELECT received_at || '|' || feedback_id || '|' || tenant || '|' || metric || '|' || level || '|'
    || target || '|' || COALESCE(value, '') AS line
FROM feedback ORDER BY feedback_id, metric
"""


def events_sha256(log: Log, experiment: str, version: int) -> str:
    """Return the SHA-256 of all events that the analysis of an experiment's version may read.

    Exposures, conflicts and outcomes of the version and all numeric feedback, each table in the
    order of its key, as text that depends on nothing but the values.

    Args:
        log: The event file.
        experiment: Its name.
        version: Its version.
    """
    digest = hashlib.sha256(b"carril-events-1\n")
    after = ""
    keys = {"experiment": experiment, "version": version}
    while True:
        (last,) = log.row(
            "SELECT MAX(unit) FROM (SELECT unit FROM exposures WHERE experiment = :experiment AND "
            "version = :version AND unit > :after ORDER BY unit LIMIT :piece)",
            keys | {"after": after, "piece": _PIECE},
        )
        if last is None:
            break
        for name, select in (
            ("exposures", _EXPOSURES.format(table="exposures")),
            ("conflicts", _EXPOSURES.format(table="exposure_conflicts")),
            ("outcomes", _OUTCOMES),
        ):
            digest.update(f"{name}\n".encode())
            digest.update(_joined(log, select, keys | {"after": after, "last": last}))
        after = last
    digest.update(b"feedback\n")
    for (line,) in log.rows(_VOTES):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _joined(log: Log, select: str, values: dict[str, object]) -> bytes:
    (text,) = log.row(
        f"SELECT GROUP_CONCAT(line, CHAR(10)) FROM ({select})",  # noqa: S608 (own statements)
        values,
    )
    return b"" if text is None else str(text).encode() + b"\n"
