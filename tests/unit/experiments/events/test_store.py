"""The event store: idempotent, conflicts kept apart, durable."""

import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from experiments.events.records import SCHEMA_VERSION, Exposure, Outcome
from experiments.events.store import ArmCount, EventStore
from tests.unit.experiments.events.builders import exposure, outcome


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "new" / "events.db")
    yield store
    store.close()


def test_storing_twice_changes_nothing(store: EventStore) -> None:
    events = [exposure("u1"), exposure("u2"), outcome("c1")]
    store.append(events)
    store.append(events)
    store.append([exposure("u1", inference_id="another", exposed_at=1.0)])
    assert store.count("exposures") == 2
    assert store.count("outcomes") == 1
    assert store.count("exposure_conflicts") == 0


def test_same_event_twice_in_one_batch_counts_once(store: EventStore) -> None:
    store.append([exposure("u1"), exposure("u1"), outcome("c1"), outcome("c1")])
    assert (store.count("exposures"), store.count("outcomes")) == (1, 1)


def test_conflicting_variant_is_kept_apart_and_never_overwrites(store: EventStore) -> None:
    store.append([exposure("u1", variant="stable")])
    store.append([exposure("u1", variant="candidate")])
    store.append([exposure("u1", variant="candidate")])
    assert store.arm_counts("exp", 1) == [ArmCount("stable", 1)]
    assert store.count("exposure_conflicts") == 1


def test_conflict_within_one_batch_is_seen(store: EventStore) -> None:
    store.append([exposure("u1", variant="stable"), exposure("u1", variant="candidate")])
    assert store.arm_counts("exp", 1) == [ArmCount("stable", 1)]
    assert store.count("exposure_conflicts") == 1


def test_versions_and_experiments_count_apart(store: EventStore) -> None:
    store.append([exposure("u1"), exposure("u1", version=2), exposure("u1", experiment="other")])
    assert store.count("exposures") == 3
    assert store.arm_counts("exp", 2) == [ArmCount("stable", 1)]


def test_every_field_is_stored(store: EventStore) -> None:
    one, two = exposure("ñ👍", cached=True), outcome("c1", ttft_s=None)
    store.append([one, two])
    with sqlite3.connect(store.path) as db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM exposures").fetchone())
        assert row.pop("seq") == 1
        assert Exposure(**(row | {"cached": bool(row["cached"])})) == one
        row = dict(db.execute("SELECT * FROM outcomes").fetchone())
        assert row.pop("seq") == 2
        assert Outcome(**(row | {"stream": bool(row["stream"])})) == two
        assert set(row) == {field.name for field in fields(Outcome)}
    db.close()


def test_batch_with_a_bad_event_stores_nothing(store: EventStore) -> None:
    with pytest.raises(sqlite3.Error):
        store.append([exposure("u1"), exposure("u2", variant=None), outcome("c1")])
    assert store.count("exposures") == store.count("outcomes") == 0
    store.append([exposure("u1")])
    assert store.count("exposures") == 1


def test_unit_that_is_no_unicode_text_stores_nothing_and_breaks_nothing(store: EventStore) -> None:
    with pytest.raises((sqlite3.Error, UnicodeError)):
        store.append([exposure("u1"), exposure("\ud800")])
    store.append([exposure("u1")])
    assert store.count("exposures") == 1


def test_commits_are_synced_and_do_not_block_readers(store: EventStore) -> None:
    db = store._db
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    for read_only in (False, True):
        with pytest.raises(ValueError, match="reads up to"):
            EventStore(path, read_only=read_only)
    db = sqlite3.connect(path)
    assert db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    db.close()


def test_reading_beside_a_writer(store: EventStore) -> None:
    store.append([exposure("u1")])
    reader = EventStore(store.path, read_only=True)
    store.append([exposure("u2")])
    assert reader.count("exposures") == 2
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.append([exposure("u3")])
    reader.close()


@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "50%25.db", "with space.db"])
def test_reading_a_file_whose_path_has_special_characters(tmp_path: Path, name: str) -> None:
    store = EventStore(tmp_path / name)
    store.append([exposure("u1")])
    reader = EventStore(tmp_path / name, read_only=True)
    assert reader.count("exposures") == 1
    reader.close()
    store.close()


def test_counting_an_unknown_table_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match="no such table: 'users'"):
        store.count("users")
