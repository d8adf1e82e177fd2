"""A PostgreSQL server, and an empty database per test."""

import pytest

from tests.postgres import PostgresServer, postgres

__all__ = ["database", "postgres"]


@pytest.fixture
def database(postgres: PostgresServer, request: pytest.FixtureRequest) -> str:
    """Return the address of a database that only this test uses."""
    return postgres.new_database(f"carril_{abs(hash(request.node.nodeid)):x}")
