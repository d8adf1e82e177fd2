"""`carril exp holdout`: the held out beside everybody else, from the log, as a user runs it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.main import run
from experiments.assignment.rules import Reason, place
from experiments.assignment.section import Section
from experiments.events.records import Event
from tests.postgres import PostgresServer
from tests.unit.experiments.analysis.sessions import START, write
from tests.unit.experiments.events.builders import exposure, feedback, outcome

CONFIG: dict[str, Any] = {
    "models": {"okla-chat": {"experiment": "exp"}},
    "holdout": {"percent": 20, "salt": "hold"},
    "experiments": {
        "exp": {
            "salt": "salt-1",
            "control": "stable",
            "allocation": {"stable": 50, "candidate": 50},
            "coverage": 50,
        }
    },
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return tmp_path


def traffic(n: int, *, lost: float = 0.0) -> list[Event]:
    """Return sessions as gateways would log them; those in the experiment like it more."""
    rules = Section.model_validate(CONFIG).rules["exp"]
    draw = random.Random(7)
    events: list[Event] = []
    for number in range(n):
        unit = f"u{number:05d}"
        found = place(unit, rules)
        held = found.reason is Reason.HOLDOUT
        if held and draw.random() < lost:
            continue
        state = {Reason.HOLDOUT: "holdout", Reason.ASSIGNED: "enrolled"}.get(found.reason, "none")
        experiment = None if state == "none" else "exp"
        if found.assignment is not None:
            events.append(exposure(unit, variant=found.variant, exposed_at=START))
        for answer in range(draw.randint(1, 3)):
            target = f"{unit}-{answer}"
            fields = {"exposure": state, "experiment": experiment, "variant": found.variant}
            took = draw.lognormvariate(0, 0.3) * (0.5 if state == "enrolled" else 1.0)
            at = START + 60.0 * answer
            events.append(outcome(target, unit=unit, duration_s=took, finished_at=at, **fields))
            up = float(draw.random() < (0.8 if state == "enrolled" else 0.5))
            events.append(feedback(f"f-{target}", target=target, value=up))
    # Of no concern: pinned, copied, of another served model, without a session.
    others: list[dict[str, Any]] = [
        {"exposure": "pinned"},
        {"exposure": "override"},
        {"exposure": "shadow"},
        {"exposure": "none", "served_model": "other", "experiment": None},
        {"exposure": "none", "unit": None, "experiment": None},
    ]
    events += [
        outcome(f"x{i}", **({"unit": f"x{i}", "duration_s": 900.0, "status": "error"} | fields))
        for i, fields in enumerate(others * 20)
    ]
    return events


def store(home: Path, events: list[Event]) -> None:
    (home / "events").mkdir(exist_ok=True)
    write(home / "events" / "events.db", events)


def asked(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, Any]:
    assert run(["exp", "holdout", "--config", "config.yaml", "--json", *options]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_what_all_experiments_have_brought_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = traffic(3000)
    store(home, events)
    found = asked(capsys)
    rows = {row["name"]: row for row in found["metrics"]}
    assert sum(found["sessions"].values()) == 3000
    assert found["conflicts"] == []
    assert rows["errors"]["holdout"] == rows["errors"]["others"] == 0
    # By hand: half of the others are enrolled, and those take half the time and like it more.
    assert rows["latency"]["effect"] == pytest.approx(-0.25, abs=0.05)
    assert rows["latency"]["ci_upper"] < 0
    assert rows["feedback.thumbs"]["effect"] == pytest.approx(0.15, abs=0.06)
    assert rows["feedback.thumbs"]["ci_lower"] > 0
    assert rows["requests"]["ci_lower"] < 0 < rows["requests"]["ci_upper"]
    assert run(["exp", "holdout", "--config", "config.yaml"]) == 0
    assert "others - holdout" in capsys.readouterr().out


def test_a_holdout_that_is_not_the_declared_share_is_not_believed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, traffic(3000, lost=0.4))
    found = asked(capsys, code=1)
    assert "sessions were held out, declared are 20.00%" in found["conflicts"][0]


def test_sessions_on_both_sides_are_left_out_and_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = traffic(1200)
    moved = [f"u{n:05d}" for n in range(60)]
    events += [
        outcome(f"late-{unit}", unit=unit, exposure="holdout", finished_at=START + 1000)
        for unit in moved
    ]
    store(home, events)
    found = asked(capsys, code=1)
    assert found["sessions_on_both_sides"] > 30
    assert any("at one time and not at another" in text for text in found["conflicts"])


@pytest.mark.parametrize(
    ("n", "code", "message"),
    [(0, 1, "nothing to compare"), (60, 5, "")],
)
def test_too_little_is_said_to_be_too_little(
    home: Path, capsys: pytest.CaptureFixture[str], n: int, code: int, message: str
) -> None:
    store(home, traffic(n) if n else [outcome()])
    assert run(["exp", "holdout", "--config", "config.yaml"]) == code
    assert message in capsys.readouterr().err


def test_without_a_holdout_or_with_a_wrong_moment_it_says_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, [outcome()])
    (home / "config.yaml").write_text(
        yaml.safe_dump({k: v for k, v in CONFIG.items() if k != "holdout"}), encoding="utf-8"
    )
    assert run(["exp", "holdout", "--config", "config.yaml"]) == 2
    assert "no holdout is declared" in capsys.readouterr().err
    assert run(["exp", "holdout", "--since", "yesterday"]) == 2
    assert "no moment" in capsys.readouterr().err


def test_the_central_database_gives_the_same(
    home: Path, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, traffic(1500))
    here = asked(capsys)
    database = postgres.new_database("holdout")
    assert run(["events", "ship", "--to", database]) == 0
    capsys.readouterr()
    there = asked(capsys, "--events", database)
    assert there["sessions"] == here["sessions"]
    for ours, theirs in zip(here["metrics"], there["metrics"], strict=True):
        assert theirs["effect"] == pytest.approx(ours["effect"], rel=1e-9, abs=1e-12)
