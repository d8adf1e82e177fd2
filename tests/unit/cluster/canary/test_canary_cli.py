"""`carril canary` without a cluster: what is kept can be read, and mistakes are named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.canary.journal import Journal
from experiments.canary.machine import after, decide
from experiments.canary.records import Applied, Record
from tests.unit.experiments.canary.builders import NOW, failing, seen, state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    return tmp_path


@pytest.fixture
def taken_back(home: Path) -> Journal:
    """A canary that was rolled back."""
    journal, before, observation = Journal(home, "exp"), state(), seen(treatment=failing())
    decision = decide(before, observation)
    record = Record(
        number=1, state=before, observation=observation, decision=decision, previous_sha256=""
    )
    kept = journal.append(record)
    applied = Applied(number=1, record_sha256=kept.sha256, applied_at=NOW + 1.5, events_sha256=None)
    journal.seal(applied)
    ended = after(before, decision, at=NOW + 1.5)
    journal.save(dataclasses.replace(ended, n_decisions=1, previous_sha256=kept.sha256))
    return journal


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["canary", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_says_where_it_stands_and_why(
    taken_back: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    document = printed(capsys, "status", taken_back.experiment)
    assert (document["status"], document["last_decision"]) == ("rolled_back", "roll_back")
    assert "ERROR_BURST: 10 of the last 10 answers failed" in document["why"]
    assert run(["canary", "status", "exp"]) == 0
    assert "rolled_back" in capsys.readouterr().out


def test_history_has_every_decision_and_replays_it(
    taken_back: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    document = printed(capsys, "history", "exp", "--replay")
    (row,) = document["decisions"]
    assert (row["action"], row["seconds_to_apply"], document["faults"]) == ("roll_back", 1.5, [])
    assert row["seconds_to_detect"] == 3.0
    assert run(["canary", "history", "exp"]) == 0
    assert "roll_back to 0 %, detected in 3.0 s, in force 1.5 s later\n" in capsys.readouterr().out
    path = Path(row["evidence"])
    path.write_text(
        path.read_text(encoding="utf-8").replace('"roll_back"', '"pause"'), encoding="utf-8"
    )
    assert run(["canary", "history", taken_back.experiment, "--replay"]) == 1
    assert "the evidence gives roll_back, the file says pause" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["edited", "removed"])
def test_the_replay_misses_the_last_decision_where_it_was_tampered_with(
    taken_back: Journal, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    (kept,) = taken_back.records()
    if harm == "removed":
        kept.path.unlink()
    else:  # not in a way that changes what follows from it
        kept.path.write_bytes(kept.path.read_bytes() + b"\n")
    assert run(["canary", "history", "exp", "--replay"]) == 1
    assert "the last record is not as the controller wrote it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status", "none"], 1, "there is no canary of 'none'"),
        (["rollback", "none"], 1, "there is no canary of 'none'"),
        (["status", "../exp"], 2, "no name of an experiment"),
        (["run", "exp", "--steps", "1,x"], 2, "not all numbers"),
        (["run", "exp", "--steps", "5,1"], 2, "must be above the one before"),
        (["run", "exp"], 3, "no cluster was started here"),
    ],
)
def test_a_mistake_is_named(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run(["canary", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (home / "canary").exists()
