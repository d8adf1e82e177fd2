"""`carril exp ls|show|decide|report` from the event log, as a user runs them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.events.records import Event, Outcome
from tests.unit.experiments.analysis.sessions import (
    CONTROL,
    START,
    exposed,
    traffic,
    unit_of,
    write,
)
from tests.unit.experiments.events.builders import transcript

CONFIG = """
applications:
  - name: gateway
    deployments:
      - name: gateway
        user_config:
          experiments:
            exp:
              salt: salt-1
              control: stable
              allocation: {stable: 50, candidate: 50}
              hypothesis: "v2 entiende <mejor>"
              metrics:
                thumbs: {measure: feedback.thumbs, role: primary, margin: 0.03, score: satisfaction}
                latency: {effect: relative, score: latency}
              guardrails:
                errors: {margin: 0.02}
                latency_p95: {effect: relative, margin: 0.3}
              decision: {planned_units: 2000}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("CARRIL_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serve_config.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def store(home: Path, events: list[Event]) -> None:
    (home / "events").mkdir(exist_ok=True)
    write(home / "events" / "events.db", events)


@pytest.fixture
def better(home: Path) -> Path:
    """A treatment that users like more, with enough sessions to say so."""
    store(home, traffic(2200, thumbs=(0.55, 0.8), errors=(0.002, 0.002), latency_s=(0.5, 0.45)))
    return home


def test_a_better_treatment_is_promoted_and_the_evidence_replays_bit_for_bit(
    better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "decide", "exp", "--evidence", "e.json", "--json"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["verdict"] == "PROMOTE_B"
    assert decision["score"]["arithmetic"].endswith("B = 3 (satisfaction) + 1 (latency) = 4")
    record = json.loads((better / "e.json").read_text(encoding="utf-8"))
    assert len(record["evidence"]["events_sha256"]) == 64
    assert run(["exp", "decide", "--replay", "e.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == decision
    assert run(["exp", "decide", "exp", "--replay", "e.json"]) == 0
    assert run(["exp", "decide", "exp", "--evidence", "again.json"]) == 0
    assert (better / "again.json").read_bytes() == (better / "e.json").read_bytes()


def test_evidence_that_the_events_do_not_give_is_refused(
    better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "decide", "exp", "--evidence", "e.json"]) == 0
    store(better, [exposed(unit_of(CONTROL, 1))])
    assert run(["exp", "decide", "exp", "--replay", "e.json"]) == 1
    assert "the log has other events now" in capsys.readouterr().err
    edited = (better / "e.json").read_text(encoding="utf-8").replace("PROMOTE_B", "KEEP_A")
    (better / "e.json").write_text(edited, encoding="utf-8")
    assert run(["exp", "decide", "--replay", "e.json"]) == 1


def test_the_evidence_has_a_place_of_its_own(
    better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "decide", "exp"]) == 0
    (made,) = (better / "experiments" / "exp").iterdir()
    assert str(made.name) in capsys.readouterr().err


def test_more_errors_than_the_margin_keep_the_control(home: Path) -> None:
    store(home, traffic(1500, thumbs=(0.5, 0.9), errors=(0.005, 0.15)))
    assert run(["exp", "decide", "exp"]) == 1


def test_equal_variants_are_no_clear_winner(home: Path) -> None:
    store(home, traffic(800))
    assert run(["exp", "decide", "exp"]) == 5


def test_ls_shows_what_is_declared_and_what_the_log_has(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "ls", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["experiments"]
    assert (row["declared"], row["units"]) == (True, {})
    store(home, [*traffic(30), *traffic(20, seed=2, experiment="other")])
    assert run(["exp", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["experiments"]
    assert [(r["experiment"], r["declared"], sum(r["units"].values())) for r in rows] == [
        ("exp", True, 30),
        ("other", False, 20),
    ]
    assert run(["exp", "ls"]) == 0
    assert "candidate 50 %, stable 50 %" in capsys.readouterr().out


def test_show_prints_health_first_and_then_the_verdict(
    better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "show", "exp"]) == 0
    out = capsys.readouterr().out
    assert out.index("Health") < out.index("PROMOTE_B") < out.index("Metrics")
    assert "thumbs (per protocol)" in out
    assert run(["exp", "show", "exp", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["arms"]["control"]["units"] + document["arms"]["treatment"]["units"] == 2200
    assert document["days"][-1].keys() == {"date", "control", "treatment"}


def test_an_undeclared_experiment_needs_its_control(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, traffic(300, experiment="other"))
    assert run(["exp", "show", "other"]) == 2
    assert "--control NAME" in capsys.readouterr().err
    assert run(["exp", "show", "other", "--control", "stable", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["declared"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        pytest.param(["nope"], 2, "is not declared", id="unknown"),
        pytest.param(["exp", "--events", "no.db"], 3, "does not exist", id="no file"),
        pytest.param(["exp", "--version", "7"], 2, "version 7", id="no version"),
        pytest.param(["exp", "--phase", "9"], 2, "no phase 9", id="no phase"),
        pytest.param(["exp", "--treatment", "x"], 2, "no treatment 'x'", id="no treatment"),
        pytest.param(["exp", "--control", "x"], 2, "control of 'exp' is 'stable'", id="control"),
        pytest.param(["exp", "--config", "no.yaml"], 2, "cannot read", id="no config"),
    ],
)
def test_bad_questions_are_refused_by_name(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    complaint: str,
) -> None:
    store(home, traffic(20))
    assert run(["exp", "show", *arguments]) == code
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("margin: 0.02", "margin: 0", "guardrails.errors.margin"),
        ("latency: {", "latencia: {", "unknown measure 'latencia'"),
        ("role: primary, ", "", "no metric has 'role: primary'"),
        ("feedback.thumbs", "feedback.lead", "needs a direction"),
        ("feedback.thumbs", "feedback.category", "is no number"),
        ("errors: {margin", "errors: {effect: relative, margin", "compared exactly"),
        ("planned_units: 2000", "planed_units: 2000", "planed_units"),
        ("stable: 50,", "stable: 60,", "110"),
    ],
)
def test_impossible_declarations_are_refused_by_name(
    home: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, complaint: str
) -> None:
    store(home, traffic(20))
    assert before in CONFIG
    (home / "bad.yaml").write_text(CONFIG.replace(before, after), encoding="utf-8")
    assert run(["exp", "show", "exp", "--config", "bad.yaml"]) == 2
    assert complaint in capsys.readouterr().err


class Page(HTMLParser):
    """Collects what a page loads, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in {"meta", "circle", "line", "rect", "path", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"circle", "line", "rect", "path"}:
            assert self.open.pop() == tag


def test_the_report_is_one_page_with_everything_and_without_other_peoples_html(
    better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [e for e in traffic(2200, thumbs=(0.55, 0.8)) if isinstance(e, Outcome)][:3]
    said: list[Event] = [
        transcript(
            one.inference_id,
            captured_at=START,
            messages='[{"role": "user", "content": "<script>klk</script>"}]',
        )
        for one in answers
    ]
    store(better, said)
    assert run(["exp", "report", "exp", "--out", "out/report.html"]) == 0
    text = (better / "out" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open
    assert not page.loads
    assert "<script" not in text
    assert "&lt;script&gt;klk" in text
    assert "v2 entiende &lt;mejor&gt;" in text
    for heading in (
        "Can the data be believed?",
        "Verdict",
        "Metrics",
        "How the effect developed",
        "New sessions per day",
        "Slices (exploratory)",
        "Sample conversations",
        "What changed",
        "How this was decided",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert text.index("Can the data be believed?") < text.index("Promote the treatment")
    assert "prefers-color-scheme: dark" in text
    assert "Dime a ver" in text


def test_a_report_of_bad_data_says_so_in_red(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, [*traffic(300), *traffic(300, seed=2, salt="other", config_hash="b" * 12)])
    assert run(["exp", "report", "exp", "--out", "r.html"]) == 0
    text = (home / "r.html").read_text(encoding="utf-8")
    assert "The data cannot be believed" in text
    assert "re-salted" in text
    assert 'class="verdict bad"' in text
    # No number that looks fine: no score, no metric in green.
    assert "Score:" not in text
    assert not re.search(r'class="[^"]*good[^"]*">[-+]', text)
    assert "Not to be believed" in text
    assert run(["exp", "show", "exp"]) == 0
    shown = capsys.readouterr().out
    assert "INVALID" in shown
    assert "score (" not in shown
    assert run(["exp", "show", "exp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] is None


def test_the_gateways_configuration_in_force_declares_by_default(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw: dict[str, Any] = {
        "experiments": {
            "exp": {"salt": "salt-1", "control": "stable", "allocation": {"stable": 100}}
        }
    }
    (home / "run").mkdir()
    (home / "run" / "gateway-config.json").write_text(json.dumps(raw), encoding="utf-8")
    store(home, traffic(40))
    assert run(["exp", "show", "exp", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["health"]["notes"]
    assert any("declared split is not the one in the log" in note for note in notes)
