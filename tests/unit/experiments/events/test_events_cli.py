"""`carril events`: what people look after the log with."""

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from cluster.cli.main import run
from experiments.events import tables
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript

GOLDEN = Path(__file__).parents[3] / "golden"
OLD, NEW = 1_600_000_000.0, 1_700_000_000.0
LIMIT = "2022-01-01"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.delenv("CARRIL_EVENTS_URL", raising=False)
    store = EventStore(tmp_path / "events" / "events.db")
    yield store
    store.close()


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["events", "status", "--json", *arguments]) == 0
    document: dict[str, Any] = json.loads(said(capsys)[0])
    return document


def test_shipping_and_how_far_it_is(
    store: EventStore, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append([exposure("u1"), outcome()])
    assert run(["events", "ship", "--to", database]) == 0
    store.append([exposure("u2")])
    node = status(capsys)
    assert node["shipments"][0]["waiting"] == 1
    assert node["shipments"][0]["party"].startswith("postgresql://127.0.0.1:")
    assert {t["name"]: t["rows"] for t in node["tables"]}["exposures"] == 2
    central = status(capsys, "--events", database)
    assert {t["name"]: t["rows"] for t in central["tables"]}["exposures"] == 1
    assert central["shipments"][0]["seq"] == 2
    assert run(["events", "status"]) == 0
    assert "1 wait" in said(capsys)[0]


def test_shipping_to_nowhere_says_so(store: EventStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", "ship"]) == 2
    assert "CARRIL_EVENTS_URL" in said(capsys)[1]
    assert run(["events", "ship", "--to", "postgresql://carril@127.0.0.1:1/carril"]) == 3
    assert "refused" in said(capsys)[1]
    assert run(["events", "ship", "--to", "mysql://h/d"]) == 3


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_file_is_brought_forward_and_says_so_before(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: int
) -> None:
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as db:
        db.executescript((GOLDEN / f"events-v{version}.sql").read_text(encoding="utf-8"))
    assert run(["events", "status", "--events", str(old)]) == 3
    assert "carril events migrate" in said(capsys)[1]
    assert run(["events", "migrate", "--events", str(old)]) == 0
    assert "brought forward" in said(capsys)[1]
    assert run(["events", "migrate", "--events", str(old)]) == 0
    assert "nothing to do" in said(capsys)[1]
    assert status(capsys, "--events", str(old))["schema_version"] == 3


def test_a_new_central_database_is_prepared(
    store: EventStore, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["events", "status", "--events", database]) == 3
    assert "carril events migrate" in said(capsys)[1]
    assert run(["events", "migrate", "--events", database]) == 0
    assert status(capsys, "--events", database)["shipments"] == []


def test_every_row_is_in_the_parquet_files(
    store: EventStore, tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(
        [
            *(exposure(f"ñ{n}", cached=n == 1, exposed_at=NEW + n) for n in range(3)),
            outcome(ttft_s=None, version=None, finished_at=NEW),
            feedback(received_at=OLD),
            transcript(),
        ]
    )
    assert run(["events", "ship", "--to", database]) == 0
    assert run(["events", "export", "--out", str(tmp_path / "out")]) == 0
    assert run(["events", "export", "--out", str(tmp_path / "central"), "--events", database]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{table.name}.parquet" for table in tables.SHIPPED}
    with closing(sqlite3.connect(store.path)) as db:
        for table in tables.SHIPPED:
            found = pq.read_table(tmp_path / "out" / f"{table.name}.parquet")
            columns = ", ".join(found.column_names)
            ours = db.execute(f"SELECT {columns} FROM {table.name} ORDER BY 1, 2, 3").fetchall()  # noqa: S608
            assert [tuple(row.values()) for row in found.to_pylist()] == ours
            assert found.equals(pq.read_table(tmp_path / "central" / f"{table.name}.parquet"))
    capsys.readouterr()
    assert run(["events", "export", "--out", "few", "--table", "outcomes", "--until", LIMIT]) == 0
    assert said(capsys)[0] == "few/outcomes.parquet\t0\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["export", "--out", "x", "--format", "csv"], "there is: parquet"),
        (["export", "--out", "x", "--table", "users"], "no table 'users'"),
        (["export", "--out", "x", "--since", "gestern"], "is no moment"),
        (["prune", "--before", "2999-01-01"], "lies in the future"),
    ],
)
def test_what_cannot_be_done_is_refused(
    store: EventStore, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["events", *arguments]) == 2
    assert reason in said(capsys)[1]


def test_events_that_are_not_there(store: EventStore, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["export", "--out", "x"], ["prune", "--before", LIMIT]):
        assert run(["events", *command, "--events", "none.db"]) == 3
        assert "'none.db' does not exist" in said(capsys)[1]


def old_session(experiment: str | None, unit: str, at: float = OLD) -> list[Any]:
    answer = f"c-{experiment}-{unit}"
    return [
        *([exposure(unit, experiment=experiment, exposed_at=at)] if experiment else []),
        outcome(answer, experiment=experiment, unit=unit if experiment else None, finished_at=at),
        feedback(f"f-{answer}", target=answer, received_at=at),
    ]


def left(store: EventStore, table: str, column: str = "inference_id") -> set[str]:
    with closing(sqlite3.connect(store.path)) as db:
        return {row[0] for row in db.execute(f"SELECT {column} FROM {table}")}  # noqa: S608


def test_pruning_takes_ended_experiments_whole_and_leaves_the_others(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    config = {
        "experiments": {
            "declared": {"salt": "s", "control": "stable", "allocation": {"stable": 100}}
        }
    }
    (tmp_path / "run" / "gateway-config.json").write_text(json.dumps(config))
    for experiment in ("ended", "declared", "running", None):
        store.append(old_session(experiment, "u1"))
    store.append([*old_session("running", "u2", NEW), *old_session("ended", "u3")])
    store.append([exposure("u1", experiment="ended", variant="candidate", exposed_at=OLD)])
    assert run(["events", "prune", "--before", LIMIT, "--dry-run", "--json"]) == 0
    planned = json.loads(said(capsys)[0])
    assert planned["experiments"] == [{"experiment": "ended", "version": 1}]
    assert {(k["experiment"], k["reason"]) for k in planned["kept"]} == {
        ("declared", "declared"),
        ("running", "young"),
    }
    assert planned["rows"]["exposures"] == 2
    assert store.count("exposures") == 5, "a dry run deletes nothing"
    assert run(["events", "prune", "--before", LIMIT]) == 0
    assert "running (version 1) stays: it has younger events" in said(capsys)[0]
    kept = {"c-declared-u1", "c-running-u1", "c-running-u2"}
    assert left(store, "exposures", "experiment") == {"declared", "running"}
    assert left(store, "outcomes") == kept
    assert left(store, "feedback", "target") == kept
    assert store.count("exposure_conflicts") == 0


def test_pruning_goes_through_more_rows_than_fit_one_transaction(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.events.retention._ROWS", 3)
    for n in range(10):
        store.append(old_session("ended", f"u{n}"))
        store.append(old_session("running", f"u{n}", OLD if n else NEW))
    assert run(["events", "prune", "--before", LIMIT]) == 0
    assert "note: no configuration here" in said(capsys)[1]
    assert (store.count("exposures"), store.count("outcomes"), store.count("feedback")) == (
        10, 10, 10,
    )  # fmt: skip


def test_what_is_not_shipped_stays_unless_told_otherwise(
    store: EventStore, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(old_session("ended", "u1"))
    assert run(["events", "ship", "--to", database]) == 0
    store.append(old_session("ended", "u2"))
    assert run(["events", "prune", "--before", LIMIT]) == 0
    assert left(store, "exposures", "unit") == {"u1", "u2"}, "as a whole or not at all"
    assert "--unshipped" in said(capsys)[0]
    assert run(["events", "prune", "--before", LIMIT, "--unshipped"]) == 0
    assert store.count("exposures") == 0
    assert run(["events", "prune", "--before", LIMIT, "--events", database]) == 0
    with psycopg.connect(database) as db:
        assert db.execute("SELECT COUNT(*) FROM exposures").fetchone() == (0,)


def test_what_was_never_shipped_stays_where_it_is_to_be_shipped(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"experiments": {}, "events": {"ship_to": "postgresql://carril@127.0.0.1:1/carril"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    store.append([*old_session("ended", "u1"), *old_session(None, "u2")])
    prune = ["events", "prune", "--before", LIMIT, "--config", str(tmp_path / "config.json")]
    assert run(prune) == 0
    assert "--unshipped" in said(capsys)[0]
    assert (store.count("exposures"), store.count("outcomes"), store.count("feedback")) == (1, 2, 2)
    assert run([*prune, "--unshipped"]) == 0
    assert (store.count("exposures"), store.count("outcomes"), store.count("feedback")) == (0, 0, 0)


def test_a_file_that_is_being_collected_still_waits(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append([exposure("u1")])
    spool = tmp_path / "events" / "spool"
    spool.mkdir()
    for name in ("gateway-1.jsonl", "gateway-2.17-ab.claimed", "gateway-3.unread"):
        (spool / name).write_text("", encoding="utf-8")
    assert status(capsys)["spool_files"] == 2


def test_the_configuration_can_come_from_stdin(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(
        [exposure("u1", exposed_at=OLD), exposure("u1", experiment="gone", exposed_at=OLD)]
    )
    declared = {"exp": {"salt": "s", "control": "stable", "allocation": {"stable": 100}}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"experiments": declared})))
    assert run(["events", "prune", "--before", LIMIT, "--config", "-", "--json"]) == 0
    document = json.loads(said(capsys)[0])
    assert document["experiments"] == [{"experiment": "gone", "version": 1}]
    assert [kept["reason"] for kept in document["kept"]] == ["declared"]
