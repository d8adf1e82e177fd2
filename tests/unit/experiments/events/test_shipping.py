"""Events of nodes reach PostgreSQL once each, whatever dies in between."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from experiments.events import tables
from experiments.events.central import CentralError, CentralStore, connect, place_name, server_url
from experiments.events.databases import EventsError, opened
from experiments.events.lag import lags
from experiments.events.records import Enrolment
from experiments.events.shipping import Shipper
from experiments.events.store import EventStore
from tests.postgres import PostgresServer
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "events.db")
    yield store
    store.close()


@pytest.fixture
def central(database: str) -> Iterator[CentralStore]:
    central = CentralStore(server_url(database))
    yield central
    central.close()


def rows(database: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as db:
        return db.execute(sql).fetchall()  # type: ignore[arg-type]


def test_every_kind_of_event_arrives_as_it_is_stored(
    store: EventStore, central: CentralStore, database: str
) -> None:
    store.append(
        [
            exposure("ñ👍", cached=True, exposed_at=1_700_000_000.123456),
            exposure("ñ👍", variant="candidate"),
            outcome("c1", ttft_s=None, confidence=0.1),
            feedback("fb-1", idempotency="k", request_hash="one", text="así no"),
            feedback("fb-2", idempotency="k", request_hash="two"),
            transcript("c1"),
        ]
    )
    assert Shipper(store.path, central).ship() == 5
    with closing(sqlite3.connect(store.path)) as db:
        for table in tables.SHIPPED:
            ours = db.execute(f"SELECT * FROM {table.name}").fetchall()  # noqa: S608
            assert len(ours) == 1
            columns = [column[1] for column in db.execute(f"PRAGMA table_info({table.name})")]
            theirs = rows(database, f"SELECT {', '.join(columns)} FROM {table.name}")  # noqa: S608
            assert theirs == ours
    assert central.count("transcripts") == 0, "texts stay on the node"


def test_what_is_shipped_is_not_shipped_again_and_repeating_changes_nothing(
    store: EventStore, central: CentralStore
) -> None:
    store.append([exposure(f"u{n}") for n in range(25)])
    shipper = Shipper(store.path, central, batch=10)
    assert shipper.ship() == 25
    assert shipper.ship() == 0
    store.append([exposure("u1"), exposure("u25"), exposure("u3", variant="candidate")])
    assert shipper.ship() == 2
    assert shipper.ship(from_start=True) == 27
    assert (central.count("exposures"), central.count("exposure_conflicts")) == (26, 1)


def test_place_is_the_databases_so_a_lost_confirmation_only_repeats(
    store: EventStore, central: CentralStore
) -> None:
    store.append([exposure("u1")])
    assert Shipper(store.path, central).ship() == 1
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("DELETE FROM shipments")
        db.commit()
    assert Shipper(store.path, central).ship() == 0


def test_file_put_back_from_a_copy_gives_places_again_and_loses_nothing(
    tmp_path: Path, central: CentralStore, database: str
) -> None:
    path, copy = tmp_path / "events.db", tmp_path / "copy.db"
    for units in (["a1", "a2"], ["lost1", "lost2", "lost3"], ["b1", "b2"], ["c1", "c2", "c3"]):
        if units[0] == "b1":
            path.write_bytes(copy.read_bytes())
        store = EventStore(path)
        store.append([exposure(unit) for unit in units])
        assert Shipper(path, central).ship() == len(units)
        store.close()
        if units[0] == "a1":
            copy.write_bytes(path.read_bytes())
    assert central.count("exposures") == 10
    assert Shipper(path, central).ship() == 0


def test_database_put_back_from_a_copy_gets_what_it_lacks(
    store: EventStore, central: CentralStore, database: str
) -> None:
    store.append([exposure(f"u{n}") for n in range(5)])
    shipper = Shipper(store.path, central, batch=2)
    assert shipper.ship() == 5
    with psycopg.connect(database) as db:
        db.execute("DELETE FROM exposures WHERE seq > 2")
        db.execute("UPDATE shipments SET seq = 2")
    assert shipper.ship() == 3
    assert central.count("exposures") == 5


@pytest.mark.parametrize("moving", [False, True])
def test_two_nodes_see_the_same_unit(
    tmp_path: Path, central: CentralStore, database: str, moving: bool
) -> None:
    """Each keeps its own first variant, where the split moves, too; centrally they meet."""
    for name, variant in (("a", "stable"), ("b", "stable"), ("c", "candidate")):
        store = EventStore(tmp_path / f"{name}.db")
        first = exposure("u1", variant=variant)
        store.append([Enrolment(first) if moving else first, outcome(f"c-{name}")])
        if moving:
            store.append([Enrolment(exposure("u1", variant="other"))])
            assert store.kept(first).variant == variant
        store.close()
        assert Shipper(tmp_path / f"{name}.db", central).ship() == 2
    assert rows(database, "SELECT variant FROM exposures") == [("stable",)]
    assert rows(database, "SELECT variant FROM exposure_conflicts") == [("candidate",)]
    assert central.count("outcomes") == 3
    assert len(rows(database, "SELECT * FROM shipments")) == 3


def test_text_that_postgresql_does_not_take_arrives_changed_rather_than_never(
    store: EventStore, central: CentralStore, database: str
) -> None:
    store.append([feedback(text="nul\x00 here")])
    assert Shipper(store.path, central).ship() == 1
    assert rows(database, "SELECT text FROM feedback") == [("nul\ufffd here",)]


def test_follower_waits_out_a_crash_of_the_server(
    store: EventStore, central: CentralStore, postgres: PostgresServer
) -> None:
    stop = threading.Event()
    follower = threading.Thread(target=Shipper(store.path, central, batch=7).follow, args=(stop,))
    follower.start()
    try:
        store.append([exposure(f"u{n}") for n in range(40)])
        poll(lambda: central.count("exposures") == 40)
        postgres.stop("immediate")
        store.append([exposure(f"v{n}") for n in range(40)])
        postgres.start()
        poll(lambda: central.count("exposures") == 80)
    finally:
        stop.set()
        follower.join(30)
    (found,) = lags(store.path)
    assert (found.n_waiting, found.seq) == (0, 80)


def poll(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(Exception):  # the server is starting
            if reached():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_migrations_and_statements_agree_on_the_tables(
    store: EventStore, central: CentralStore, database: str
) -> None:
    central.migrate()
    engine = connect(server_url(database))
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []
    engine.dispose()
    assert not central.migrate(), "nothing is left to do"


def test_database_of_a_newer_version_is_refused(central: CentralStore, database: str) -> None:
    central.migrate()
    with psycopg.connect(database) as db:
        db.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(CentralError, match=r"event schema 0099; this build reads up to 0003"):
        central.migrate()


def test_database_of_another_program_is_refused(database: str) -> None:
    with psycopg.connect(database) as db:
        db.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        db.execute("INSERT INTO alembic_version VALUES ('ab12cd')")
    with (
        pytest.raises(EventsError, match=r"another program \(revision 'ab12cd'\)"),
        opened(database),
    ):
        pass


def test_database_that_lacks_characters_is_refused(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as db:
        db.execute("DROP DATABASE IF EXISTS narrow")
        db.execute("CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    central = CentralStore(server_url(postgres.url("narrow")))
    with pytest.raises(CentralError, match=r"encoding is LATIN1.* createdb --encoding UTF8"):
        central.migrate()
    central.close()


def test_follower_says_why_it_ships_nothing(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    stop.set()
    Shipper(store.path, CentralStore(server_url("postgresql://c@127.0.0.1:1/x"))).follow(stop)
    assert "events not shipped: postgresql://127.0.0.1:1/x: " in caplog.text


def test_unreachable_database_is_named_without_its_password(store: EventStore) -> None:
    store.append([exposure("u1"), exposure("u2")])
    url = server_url("postgresql://carril:secreto@127.0.0.1:1/carril")
    assert place_name(url) == "postgresql://127.0.0.1:1/carril"
    with pytest.raises(CentralError, match=r"^postgresql://127.0.0.1:1/carril: .*refused") as told:
        Shipper(store.path, CentralStore(url)).ship()
    assert "secreto" not in str(told.value)
    (found,) = lags(store.path)
    assert (found.destination, found.n_waiting) == (place_name(url), 2), "known before it answers"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("events.db", "no address of a database"),
        ("mysql://root@host/x", "'mysql' is no central database"),
        ("postgresql://host", "names no database"),
        ("postgresql://carril:se@creto@host/x", "an @ of a password as %40"),
    ],
)
def test_what_is_no_postgresql_is_refused(address: str, reason: str) -> None:
    with pytest.raises(CentralError, match=reason) as told:
        server_url(address)
    assert "creto" not in str(told.value)


def test_address_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(CentralError, match="multihost"):
        CentralStore(server_url("postgresql:///x?host=a&host=b&port=1"))
