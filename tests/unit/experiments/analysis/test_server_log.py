"""The central database is analysed like a file, to the last bit; so are several nodes together."""

import json
from pathlib import Path

import pytest

from cluster.cli.main import run
from experiments.analysis.conversations import read_conversations
from experiments.analysis.result import Analysis
from experiments.analysis.run import Options, analyse
from experiments.events.central import CentralStore, server_url
from experiments.events.shipping import Shipper
from tests.postgres import PostgresServer
from tests.unit.experiments.analysis.sessions import DAY, START, declaration, traffic, write
from tests.unit.experiments.events.builders import exposure

NOW = START + 30 * DAY


def analysed(source: Path | str) -> Analysis:
    return analyse(source, "exp", declaration(), Options(now=NOW, slices=True))


def test_server_gives_what_the_file_gives_and_nodes_add_up(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.analysis.survey.PIECE_UNITS", 100)
    events = [*traffic(300, errors=(0.1, 0.2)), exposure("two", bucket=1)]
    events.append(exposure("two", bucket=1, variant="candidate"))
    whole = write(tmp_path / "whole.db", events)
    address = postgres.new_database("analysis")
    central = CentralStore(server_url(address))
    for node in (0, 1):
        part = write(tmp_path / f"node{node}.db", events[: len(events) // 2] if node else events)
        Shipper(part, central).ship()
    central.close()
    found = analysed(address)
    assert found == analysed(whole)
    assert read_conversations(address, found) == []


def test_commands_take_the_address(
    tmp_path: Path,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    write(tmp_path / "events" / "events.db", traffic(300))
    address = postgres.new_database("commands")
    assert run(["events", "ship", "--to", address]) == 0
    capsys.readouterr()
    shown = []
    for source in ([], ["--events", address]):
        assert run(["exp", "show", "exp", "--control", "stable", "--json", *source]) == 0
        shown.append(json.loads(capsys.readouterr().out))
        assert run(["exp", "ls", "--json", *source]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[:2] == shown[2:]


def test_server_that_is_away_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    address = "postgresql://carril:secreto@127.0.0.1:1/carril"
    assert run(["exp", "show", "exp", "--control", "stable", "--events", address]) == 3
    told = capsys.readouterr().err
    assert "refused" in told
    assert "secreto" not in told
