"""`carril feedback analyze|report`, through the command line, over real event files."""

import json
import random
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from cluster.cli.main import run
from experiments.events.records import Event
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def store(home: Path, events: Iterable[Event]) -> None:
    file = EventStore(home / "events" / "events.db")
    file.append(events)
    file.close()


def analysis(home: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["feedback", "analyze", "--json", *options]) == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def answer(
    n: int, *, unit: str, variant: str = "stable", intent: str = "saludo", **votes: Any
) -> list[Event]:
    """Return an enrolled answer and its votes."""
    target = f"chatcmpl-{n}"
    events: list[Event] = [outcome(target, unit=unit, variant=variant, intent=intent)]
    for metric, value in votes.items():
        kind = {"thumbs": "boolean", "rating": "integer", "category": "category"}[metric]
        text = value if isinstance(value, str) else None
        events.append(
            feedback(
                f"fb-{n}",
                target=target,
                metric=metric,
                metric_type=kind,
                value=None if text else float(value),
                text=text,
            )
        )
    return events


def experiment(seed: int, rates: dict[str, float], n_units: int) -> list[Event]:
    """Return sessions of one to four rated answers per variant."""
    draw = random.Random(seed)
    events: list[Event] = []
    for variant, rate in rates.items():
        for unit in range(n_units):
            for _ in range(draw.randint(1, 4)):
                n = len(events)
                up = draw.random() < rate
                events += answer(n, unit=f"{variant}-{unit}", variant=variant, thumbs=up)
    return events


def test_sessions_count_once_each_and_intervals_are_wilsons(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    for n in range(60):
        events += answer(n, unit=f"u{n % 20}", thumbs=n % 20 < 15)
    store(home, events)
    [metric] = analysis(home, capsys)["metrics"]
    [arm] = metric["arms"]
    assert (metric["metric"], metric["experiment"], arm["variant"]) == ("thumbs", "exp", "stable")
    assert (arm["n_units"], arm["n_votes"], arm["estimate"]) == (20, 60, 0.75)
    expected = proportion_confint(15, 20, method="wilson")
    assert (arm["ci_lower"], arm["ci_upper"]) == pytest.approx(expected)
    assert metric["differences"] == []


def test_real_difference_is_found_and_none_is_not(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, experiment(1, {"stable": 0.5, "candidate": 0.8}, 300))
    [metric] = analysis(home, capsys)["metrics"]
    [row] = metric["differences"]
    assert (row["variant"], row["control"], row["always_valid"]) == ("candidate", "stable", True)
    assert 0 < row["ci_lower"] < 0.3 < row["ci_upper"]
    [reverse] = analysis(home, capsys, "--control", "candidate")["metrics"]
    assert reverse["differences"][0]["effect"] == pytest.approx(-row["effect"])
    assert analysis(home, capsys, "--control", "nobody")["metrics"][0]["differences"] == []


def test_too_few_sessions_are_refused_in_words(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, experiment(2, {"stable": 0.5, "candidate": 0.9}, 8))
    [metric] = analysis(home, capsys)["metrics"]
    [row] = metric["differences"]
    assert row["effect"] is None
    assert "units" in row["refusal"]


def test_sessions_that_were_not_assigned_by_chance_are_never_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = experiment(3, {"stable": 0.5}, 5)
    for n in range(9000, 9010):
        vote = feedback(f"fb-{n}", target=f"chatcmpl-{n}")
        pinned = outcome(f"chatcmpl-{n}", exposure="pinned", variant="candidate")
        events += [pinned, vote]
    store(home, events)
    metrics = analysis(home, capsys)["metrics"]
    assert [(m["experiment"], [a["variant"] for a in m["arms"]]) for m in metrics] == [
        (None, ["candidate"]),
        ("exp", ["stable"]),
    ]
    assert all(m["differences"] == [] for m in metrics)


def test_session_metrics_are_joined_by_their_exposure(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lead: dict[str, Any] = {"level": "episode", "metric": "lead"}
    store(
        home,
        [
            exposure("u1", variant="candidate"),
            feedback("fb-1", target="u1", value=1.0, **lead),
            feedback("fb-2", target="nobody", value=0.0, **lead),
        ],
    )
    found = analysis(home, capsys)
    [metric] = found["metrics"]
    assert [(a["variant"], a["estimate"], a["ci_upper"]) for a in metric["arms"]] == [
        ("candidate", 1.0, 1.0)
    ]
    assert (found["n_votes"], found["n_unjoined"], found["n_answers"]) == (2, 1, 0)


def test_weak_intents_come_first_and_only_sure_ones_are_called_weak(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    for n in range(300):
        intent = ("saludo", "consultar_precio", "garantia")[n % 3]
        bad = n % 10 < (6 if intent == "consultar_precio" else 1)
        events += answer(n, unit=f"u{n}", intent=intent, thumbs=not bad)
    events += answer(900, unit="u900", intent="rara", category="wrong_intent")
    store(home, events)
    intents = {row["intent"]: row for row in analysis(home, capsys)["intents"]}
    assert next(iter(intents)) == "consultar_precio"
    assert [name for name, row in intents.items() if row["weak"]] == ["consultar_precio"]
    assert intents["rara"]["blamed_rate"] == 1.0
    assert intents["rara"]["n_wrong_intent"] == 1
    low, high = proportion_confint(60, 100, alpha=0.05 / 4, method="wilson")
    row = intents["consultar_precio"]
    assert (row["ci_lower"], row["ci_upper"]) == pytest.approx((low, high))


def test_claims_of_untrue_answers_stand_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    for n in range(80):
        untrue = n < 40
        said = f"Cuesta RD${n},000 y sale el 2019" if untrue else "Claro, del 2019 tengo varias"
        votes: dict[str, Any] = {"category": "wrong_price"} if untrue else {"thumbs": True}
        events += answer(n, unit=f"u{n}", **votes)
        events.append(transcript(f"chatcmpl-{n}", answer=said))
    store(home, events)
    found = analysis(home, capsys)
    patterns = {row["claim"]: row for row in found["hallucination_patterns"]}
    assert (patterns["amount"]["n_untrue"], patterns["amount"]["n_praised"]) == (40, 0)
    assert patterns["amount"]["suspicious"]
    assert patterns["year"]["n_praised"] == 40
    assert not patterns["year"]["suspicious"]
    assert found["categories"] == {"wrong_price": {"stable": 40}}
    assert found["examples"][0]["category"] == "wrong_price"


def test_replaced_votes_are_counted_but_do_not_count(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flood = [feedback(f"fb-{n}", received_at=float(n), value=0.0) for n in range(1, 100)]
    last = feedback("fb-z", received_at=1000.0, value=1.0)
    store(home, [outcome(), *flood, last])
    found = analysis(home, capsys)
    assert (found["n_votes"], found["n_replaced"]) == (1, 99)
    assert found["metrics"][0]["arms"][0]["estimate"] == 1.0


def test_no_feedback_yet_is_said_and_no_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["feedback", "analyze"]) == 0
    assert "no feedback yet" in capsys.readouterr().out
    assert analysis(home, capsys)["metrics"] == []
    store(home, [outcome()])
    assert analysis(home, capsys)["n_votes"] == 0


class _Page(HTMLParser):
    """Reads a page, noting what it would load and what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_page_that_loads_nothing_and_shows_text_as_text(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)</script> | `x` <img src=x onerror=alert(1)>"
    store(
        home,
        [
            *experiment(4, {"stable": 0.4, "candidate": 0.9}, 120),
            *answer(9000, unit="u9000", category="hallucination"),
            transcript("chatcmpl-9000", answer=evil),
        ],
    )
    assert run(["feedback", "report", "--out", str(home / "report")]) == 0
    assert sorted(p.name for p in (home / "report").iterdir()) == [
        "report.html", "report.json", "report.md",
    ]  # fmt: skip
    page = _Page()
    page.feed((home / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.loads == []
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "svg" in page.tags
    assert evil in page.text
    assert "candidate - stable" in page.text
    markdown = (home / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    for section in markdown.split("\n## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1, section
    written = json.loads((home / "report" / "report.json").read_text(encoding="utf-8"))
    assert written == analysis(home, capsys)


def test_report_shows_what_the_user_read_and_not_the_json_around_it(home: Path) -> None:
    said = json.dumps({"intent": "saludo", "response": "Cuesta RD$1"})
    store(
        home,
        [*answer(1, unit="u1", category="hallucination"), transcript("chatcmpl-1", answer=said)],
    )
    assert run(["feedback", "report", "--out", str(home / "report")]) == 0
    for name in ("report.html", "report.md"):
        text = (home / "report" / name).read_text(encoding="utf-8")
        assert "Cuesta RD$1" in text
        assert "response" not in text


def test_report_of_nothing_is_a_page_too(home: Path) -> None:
    assert run(["feedback", "report", "--out", str(home / "report")]) == 0
    assert "No numeric feedback yet" in (home / "report" / "report.md").read_text(encoding="utf-8")


def test_folder_that_cannot_be_written_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").write_text("", encoding="utf-8")
    assert run(["feedback", "report", "--out", str(home / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
