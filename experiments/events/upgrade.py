"""Runs the migrations, on an event file or on a PostgreSQL database.

Every version of the tables is a revision in `migrations/versions`. Event files also carry it in
`PRAGMA user_version`, which readers check without this module.
"""

import io
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from experiments.events.records import SCHEMA_VERSION

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 7_246_931
"""Key of the advisory lock under which PostgreSQL's tables are changed."""


def upgrade_file(path: Path) -> None:
    """Bring an event file to this version.

    Raises:
        sqlite3.Error: If it failed; then the file is as it was.
    """
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(path, isolation_level=None, timeout=30),
        poolclass=NullPool,
    )
    # Held by us rather than by the driver, which would commit before a table is made.
    event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as db:
            # Read under the lock: another process may have been faster.
            version = int(db.exec_driver_sql("PRAGMA user_version").scalar_one())
            if version < SCHEMA_VERSION:
                if version > 0 and not inspect(db).has_table("alembic_version"):
                    command.stamp(_config(db), _revision(version))
                command.upgrade(_config(db), _revision(SCHEMA_VERSION))
                db.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from None
        raise


def upgrade_server(engine: Engine) -> bool:
    """Bring the tables of a PostgreSQL database to this version.

    Returns:
        Whether there was anything to do.

    Raises:
        ValueError: If the database was written by a newer version, or takes not every text.
        sqlalchemy.exc.SQLAlchemyError: If it failed; then the database is as it was.
    """
    with engine.begin() as db:
        db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        encoding = db.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise ValueError(
                f"the database's encoding is {encoding}, which lacks characters that sessions and "
                "votes have; make one with: createdb --encoding UTF8 --template template0 NAME"
            )
        current = MigrationContext.configure(db).get_current_revision()
        if current == _revision(SCHEMA_VERSION):
            return False
        known = {script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}
        if current is not None and current not in known:
            raise ValueError(
                f"the database has event schema {current}; this build reads up to "
                f"{_revision(SCHEMA_VERSION)}. Use the newer carril, or another database"
            )
        command.upgrade(_config(db), _revision(SCHEMA_VERSION))
        return True


def _config(db: Connection) -> Config:
    config = Config(stdout=io.StringIO())
    # A path may contain %, which the configuration would read as a reference.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    return config


def _revision(version: int) -> str:
    return f"{version:04d}"
