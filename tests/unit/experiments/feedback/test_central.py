"""Feedback of all nodes is read from the central database."""

import json
from pathlib import Path

import pytest

from cluster.cli.main import run
from tests.postgres import PostgresServer
from tests.unit.experiments.events.builders import transcript
from tests.unit.experiments.feedback.test_analysis_cli import answer, experiment, store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    return tmp_path


def test_the_central_database_says_what_the_file_says(
    home: Path, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        *experiment(1, {"stable": 0.6, "candidate": 0.7}, 60),
        *answer(9_000, unit="x", category="hallucination", rating=1),
    ]
    store(home, [*events, transcript("chatcmpl-0")])
    address = postgres.new_database("feedback")
    assert run(["events", "ship", "--to", address]) == 0
    capsys.readouterr()
    shown = []
    for source in ([], ["--events", address]):
        assert run(["feedback", "analyze", "--json", *source]) == 0
        document = json.loads(capsys.readouterr().out)
        document.pop("n_with_text", None)
        shown.append(document)
        assert run(["feedback", "export", "--out", "-", *source]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        shown.append([line for line in lines if line["inference_id"] != "chatcmpl-0"])
    assert shown[2:] == shown[:2]
    assert run(["feedback", "export", "--positive", "--out", "-", "--events", address]) == 2
    assert "texts of answers stay on the nodes" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["feedback", "analyze"], ["drift", "baseline"]])
def test_a_server_that_is_not_there_is_named_without_its_password(
    home: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    address = "postgresql://carril:secret@127.0.0.1:1/events"
    assert run([*command, "--events", address]) == 3
    told = capsys.readouterr().err
    assert "postgresql://127.0.0.1:1/events" in told
    assert "secret" not in told
