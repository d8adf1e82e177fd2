"""`carril exp shadow` over an event file: pairs, weights, and what it says without any."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.analysis.log import open_log
from experiments.canary.observe import recent_of
from experiments.events.records import Event
from experiments.events.store import EventStore
from tests.unit.experiments.canary.builders import state
from tests.unit.experiments.events.builders import exposure, outcome

OLD, NEW = "11" * 32, "22" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pair(
    number: int, *, session: str, shown: dict[str, Any], shadow: dict[str, Any]
) -> Iterator[Event]:
    """Yield the answer that a user got and that of the shadow."""
    seen = outcome(
        f"chatcmpl-{number}", unit=session, finished_at=1_700_000_000.0 + number, **shown
    )
    yield seen
    yield outcome(
        f"shadow-v2-{seen.inference_id}",
        request_id=seen.inference_id,
        **{
            "unit": session,
            "finished_at": seen.finished_at + 1,
            "variant": "candidate",
            "experiment": "v2",
            "version": None,
            "exposure": "shadow",
            "cache": "bypass",
            "model_sha256": NEW,
        }
        | shadow,
    )


def traffic(n_sessions: int, *, agree: float = 0.9, slower: float = 1.5) -> Iterator[Event]:
    """Yield sessions of 1 to 4 pairs; the shadow is slower and does not always agree."""
    dice, number = random.Random(5), 0
    for session in range(n_sessions):
        for _ in range(dice.randint(1, 4)):
            number += 1
            duration_s = dice.uniform(0.5, 1.5)
            intent = "greeting" if dice.random() > agree else "vehicle_search"
            yield from pair(
                number,
                session=f"s{session}",
                shown={"intent": "vehicle_search", "duration_s": duration_s},
                shadow={
                    "intent": intent,
                    "duration_s": slower * duration_s * dice.uniform(0.9, 1.1),
                },
            )


def store(home: Path, events: Iterator[Event]) -> None:
    log = EventStore(home / "events" / "events.db")
    log.append(events)
    log.close()


def compared(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert run(["exp", "shadow", "v2", "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document | {row["name"]: row for row in document["metrics"]}


def test_both_variants_are_compared_on_the_same_requests(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, traffic(400))
    found = compared(capsys)
    assert (found["of"], found["variant"]) == ("stable", "candidate")
    assert (found["n_sessions"], found["variant_sha256"]) == (400, NEW)
    assert found["n_pairs"] == found["errors"]["n_pairs"] > 800
    agreement = found["intent_agreement"]
    assert agreement["ci_lower"] < 0.9 < agreement["ci_upper"]
    assert agreement["ci_upper"] - agreement["ci_lower"] < 0.15
    assert found["changed_intents"][0]["shadow"] == "greeting"
    latency, ratio = found["latency_s"], found["latency_ratio"]
    assert latency["ci_lower"] < 0.5 < latency["ci_upper"]
    assert latency["ci_lower"] > 0.4
    assert "differ by the same amount" in found["tokens"]["problem"]
    assert ratio["ci_lower"] < 1.5 < ratio["ci_upper"] < 1.6
    valid = found["valid_answers"]
    assert (valid["shown"], valid["shadow"], valid["effect"]) == (1, 1, 0)
    assert run(["exp", "shadow", "v2"]) == 0
    shown = capsys.readouterr().out
    assert "candidate (222222222222) beside stable (abababababab)" in shown
    assert "intent_agreement" in shown
    assert "tokens: all sessions differ by the same amount" in shown


def test_failed_and_broken_copies_count_where_they_belong(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def some() -> Iterator[Event]:
        for number in range(300):
            shadow: dict[str, Any] = {"intent": "vehicle_search", "duration_s": 0.1 + number / 1000}
            if number % 5 == 0:
                shadow = {"status": "error", "error_code": "timeout", "model_sha256": ""}
            elif number % 5 == 1:
                shadow = {"intent": None, "finish_reason": "length"}
            yield from pair(
                number, session=f"s{number}", shown={"intent": "vehicle_search"}, shadow=shadow
            )

    store(home, some())
    found = compared(capsys)
    assert found["errors"]["shadow"] == pytest.approx(0.2)
    assert found["errors"]["ci_lower"] > 0.05
    # Of the answers that there are, a quarter was cut off.
    assert (found["valid_answers"]["n_pairs"], found["valid_answers"]["shadow"]) == (240, 0.75)
    assert found["valid_answers"]["ci_upper"] < -0.1
    assert found["intent_agreement"]["n_pairs"] == 180
    assert found["latency_s"]["n_pairs"] == 240


def test_only_the_weights_of_now_are_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def swapped() -> Iterator[Event]:
        for number in range(200):
            changes: dict[str, Any] = {"intent": "greeting", "duration_s": number / 100}
            weights = OLD if number < 50 else NEW
            yield from pair(
                number,
                session=f"s{number}",
                shown={"intent": "greeting"},
                shadow=changes | {"model_sha256": weights},
            )

    store(home, swapped())
    found = compared(capsys)
    assert (found["n_pairs"], found["variant_sha256"]) == (150, NEW)


def test_too_few_sessions_are_told_and_not_guessed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, traffic(20))
    found = compared(capsys, code=5)
    assert found["latency_s"]["ci_lower"] is None
    assert found["latency_s"]["problem"] == "a paired difference needs 100 sessions; there are 20"
    assert found["intent_agreement"]["ci_lower"] > 0.5


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("v2", 1, "no copy of 'v2' was answered yet"),
        ("v3", 2, "no shadow 'v3' in the event log; there: v2"),
    ],
)
def test_nothing_to_compare_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, message: str
) -> None:
    failed = {"status": "error", "error_code": "timeout", "model_sha256": ""}
    store(home, pair(1, session="s1", shown={}, shadow=failed))
    assert run(["exp", "shadow", name]) == code
    assert message in capsys.readouterr().err


def test_a_missing_log_is_an_error_of_the_place(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["exp", "shadow", "v2"]) == 3
    assert "does not exist" in capsys.readouterr().err


def test_no_experiment_sees_a_shadow(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control's sessions are enrolled; what the shadow did is nowhere in their analysis."""

    def enrolled(shadows: bool) -> Iterator[Event]:
        events = list(traffic(150))
        for event in events:
            if shadows or getattr(event, "exposure", "") != "shadow":
                yield event
        for session in range(150):
            variant = "stable" if session % 2 else "candidate"
            yield exposure(
                f"s{session}", variant=variant, probability=0.5, exposed_at=1_700_000_000.0
            )

    shown = []
    for shadows in (False, True):
        (home / "events" / "events.db").unlink(missing_ok=True)
        store(home, enrolled(shadows))
        run(["exp", "show", "exp", "--control", "stable", "--json"])
        shown.append(json.loads(capsys.readouterr().out))
        run(["exp", "ls", "--json"])
        shown[-1]["listed"] = json.loads(capsys.readouterr().out)
    assert shown[0] == shown[1]
    with open_log(home / "events" / "events.db") as log:
        canary = state(step_at=0.0)
        seen = recent_of(log, canary, "candidate", canary.plan.burst, now=1_700_000_050.0)
    assert seen.answers == 0
