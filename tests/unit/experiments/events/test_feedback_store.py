"""Feedback in the event store: history kept, keys honoured, texts deleted in time, old files."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.events.feedback_keys import StoredKey, stored_key
from experiments.events.records import SCHEMA_VERSION, Feedback, Transcript
from experiments.events.spool import Spool, drain
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "events.db")
    yield store
    store.close()


def rows(store: EventStore, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(store.path)) as db:
        return list(db.execute(sql))


def test_every_vote_is_kept_and_a_repeated_one_changes_nothing(store: EventStore) -> None:
    votes = [feedback("fb-1"), feedback("fb-2", value=0.0), feedback("fb-2", metric="rating")]
    store.append(votes)
    store.append(votes)
    assert store.count("feedback") == 3


def test_every_field_is_stored(store: EventStore) -> None:
    vote = feedback(text="así no, mi pana 👍", value=None, idempotency="k", request_hash="h")
    kept = transcript()
    store.append([vote, kept])
    with closing(sqlite3.connect(store.path)) as db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM feedback").fetchone())
        assert row.pop("seq") == 1
        assert Feedback(**row) == vote
        assert Transcript(**dict(db.execute("SELECT * FROM transcripts").fetchone())) == kept


@pytest.mark.parametrize("together", [False, True], ids=["apart", "one-batch"])
def test_first_body_under_a_key_wins_and_the_other_is_kept_apart(
    store: EventStore, together: bool
) -> None:
    first = feedback("fb-1", idempotency="k", request_hash="one", value=1.0)
    other = feedback("fb-2", idempotency="k", request_hash="two", value=0.0)
    for batch in [[first, other, first]] if together else [[first], [other], [first]]:
        store.append(batch)
    assert rows(store, "SELECT feedback_id FROM feedback") == [("fb-1",)]
    assert rows(store, "SELECT feedback_id FROM feedback_conflicts") == [("fb-2",)]
    assert stored_key(store.path, "k") == StoredKey("fb-1", "one")


def test_several_metrics_under_one_key_are_no_conflict(store: EventStore) -> None:
    one = feedback(idempotency="k", request_hash="one")
    store.append([one, replace(one, metric="rating", value=4.0)])
    assert (store.count("feedback"), store.count("feedback_conflicts")) == (2, 0)


def test_key_of_a_file_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    assert stored_key(tmp_path / "none.db", "k") is None
    (tmp_path / "noise.db").write_bytes(b"no database" * 100)
    assert stored_key(tmp_path / "noise.db", "k") is None


def test_feedback_travels_through_the_spool(store: EventStore, tmp_path: Path) -> None:
    events = [feedback(text="Ñandú\n2", value=None), transcript(), outcome(intent="saludo")]
    Spool(tmp_path / "spool", "g1").append(events)
    assert drain(tmp_path / "spool", store.append) == 3
    assert (store.count("feedback"), store.count("transcripts"), store.count("outcomes")) == (
        1, 1, 1,
    )  # fmt: skip


def old_file(path: Path, version: int = 1) -> None:
    """Make the file that an older version wrote."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((GOLDEN / f"events-v{version}.sql").read_text(encoding="utf-8"))


def test_older_file_is_brought_forward_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    old_file(path)
    store = EventStore(path)
    assert rows(store, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert rows(store, "SELECT unit, variant, schema_version FROM exposures") == [
        ("u1", "stable", 1)
    ]
    assert rows(store, "SELECT inference_id, intent FROM outcomes") == [("chatcmpl-old", None)]
    store.append([feedback(), transcript(), outcome("c2", intent="saludo"), exposure("u2")])
    assert store.count("feedback") == 1
    store.close()
    EventStore(path).close()


def test_events_of_an_older_file_get_places_in_the_order_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    old_file(path, version=2)
    store = EventStore(path)
    assert rows(store, "SELECT unit, seq FROM exposures ORDER BY seq") == [("u2", 1), ("u1", 2)]
    assert rows(store, "SELECT seq FROM exposure_conflicts") == [(3,)]
    assert rows(store, "SELECT inference_id, seq FROM outcomes ORDER BY seq") == [
        ("chatcmpl-2", 4),
        ("chatcmpl-1", 5),
    ]
    assert rows(store, "SELECT seq FROM feedback") == [(6,)]
    assert rows(store, "SELECT seq FROM feedback_conflicts") == [(7,)]
    store.append([exposure("u3"), exposure("u3"), exposure("u4")])
    assert rows(store, "SELECT unit, seq FROM exposures WHERE seq > 7 ORDER BY seq") == [
        ("u3", 8),
        ("u4", 10),
    ]
    store.close()


@pytest.mark.parametrize("version", [1, 2])
def test_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path, version: int) -> None:
    old_file(tmp_path / "old.db", version)
    shapes = []
    for name in ("old.db", "new.db"):
        store = EventStore(tmp_path / name)
        shapes.append(
            {
                name: rows(store, f"PRAGMA {kind}_info({name})")
                for kind, name in rows(store, "SELECT type, name FROM sqlite_master")
            }
        )
        store.close()
    assert shapes[0] == shapes[1]


def test_failed_migration_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    old_file(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE VIEW feedback AS SELECT 1")  # stands in the way
    with pytest.raises(sqlite3.Error):
        EventStore(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert "intent" not in [row[1] for row in db.execute("PRAGMA table_info(outcomes)")]


def test_older_spool_lines_are_read(store: EventStore, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    Spool(spool, "old").append([exposure("u1", schema_version=1)])
    assert drain(spool, store.append) == 1
    assert store.count("exposures") == 1


def texts(store: EventStore) -> list[object]:
    return sorted(row[0] for row in rows(store, "SELECT inference_id FROM transcripts"))


def test_texts_are_deleted_in_time_and_rated_ones_stay_longer(store: EventStore) -> None:
    times = {"unrated_until": 100.0, "keep_until": 200.0}
    store.append([transcript("rated", **times), transcript("unrated", **times)])
    store.append([feedback(target="rated"), feedback("fb-2", target="unrated", level="episode")])
    assert (store.purge_texts(99.0), texts(store)) == (0, ["rated", "unrated"])
    assert (store.purge_texts(101.0), texts(store)) == (1, ["rated"])
    assert (store.purge_texts(201.0), texts(store)) == (1, [])
    assert store.count("feedback") == 2, "votes stay"


def test_deleted_text_is_in_no_file_any_more(store: EventStore) -> None:
    secret = "una conversación que ya no debe estar"
    store.append([transcript(answer=secret, unrated_until=1.0)])
    cleaner = EventStore(store.path)
    assert cleaner.purge_texts(2.0) == 1
    cleaner.close()
    for path in store.path.parent.iterdir():
        assert secret.encode() not in path.read_bytes(), path.name
