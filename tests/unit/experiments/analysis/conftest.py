"""A PostgreSQL server for tests of the central database."""

from tests.postgres import postgres

__all__ = ["postgres"]
