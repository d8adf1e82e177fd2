"""A PostgreSQL server for these tests."""

from tests.postgres import postgres

__all__ = ["postgres"]
