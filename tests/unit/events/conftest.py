"""A PostgreSQL server for the shipper's tests."""

from tests.postgres import postgres

__all__ = ["postgres"]
