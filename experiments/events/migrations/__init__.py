"""The history of the event log's tables, one Alembic revision per version.

Revisions never change once released. They are written as the SQL of the event file; `apply` turns
it into PostgreSQL's, so that both databases have one history.
"""

import re
from collections.abc import Iterable

from alembic import op

_POSTGRESQL = (
    (r"\bWITHOUT ROWID\b", ""),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    # Compared by bytes, as SQLite does: the order of keys is part of what an analysis reads.
    (r"\bTEXT\b", 'TEXT COLLATE "C"'),
)


def apply(statements: Iterable[str]) -> None:
    """Run statements, in the dialect of the database at hand."""
    translate = op.get_bind().dialect.name == "postgresql"
    for statement in statements:
        for pattern, replacement in _POSTGRESQL if translate else ():
            statement = re.sub(pattern, replacement, statement)
        op.get_bind().exec_driver_sql(statement)
