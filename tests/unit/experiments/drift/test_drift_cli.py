"""`carril drift`, through the command line, over real event files."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli.main import run
from experiments.drift.policy import DriftPolicy, SignalName
from experiments.drift.simulation import injections
from experiments.drift.traffic_model import (
    FALLBACK,
    NEW_CODE,
    NEW_INTENT,
    make_trace,
    move_intents,
    scale_confidence,
)
from experiments.events.store import EventStore
from tests.unit.experiments.drift.stored import DAY_S, PER_DAY, REFERENCE_DAYS, START, store_traffic
from tests.unit.experiments.events.builders import outcome

ONSET = START + REFERENCE_DAYS * DAY_S
END = ONSET + 2.0 * DAY_S
INJECTED = injections(DriftPolicy(), make_trace(np.random.default_rng(7), sessions=4000))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Homes with traffic that is made once: without drift, and with less confidence."""
    homes = {name: tmp_path_factory.mktemp(name) for name in ("calm", "unsure")}
    store_traffic(homes["calm"])
    store_traffic(homes["unsure"], scale_confidence(0.3))
    return homes


@pytest.fixture
def calm(home: Path, made: dict[str, Path]) -> Path:
    shutil.copytree(made["calm"], home, dirs_exist_ok=True)
    return home


@pytest.fixture
def unsure(home: Path, made: dict[str, Path]) -> Path:
    shutil.copytree(made["unsure"], home, dirs_exist_ok=True)
    return home


def write_config(folder: Path, **more: Any) -> None:
    config = {"fallback_intents": [FALLBACK], **more}
    (folder / "drift.yaml").write_text(json.dumps(config), encoding="utf-8")


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def freeze(*options: str) -> int:
    return run(["drift", "baseline", "--until", moment(ONSET), *options])


def checked(capsys: pytest.CaptureFixture[str], at: float, *options: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["drift", "check", "--at", moment(at), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def test_traffic_like_the_baseline_is_ok_and_leaves_reports(
    calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze() == 0
    code, document = checked(capsys, END)
    assert (code, document["level"], document["findings"]) == (0, "ok", [])
    assert {item["level"] for item in document["variants"]["stable"]["signals"].values()} == {"ok"}
    assert json.loads((calm / "drift" / "latest.json").read_text()) == document
    assert (calm / "drift" / "latest.md").read_text().startswith("# Drift: ok")
    (line,) = (calm / "drift" / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["level"] == "ok"


@pytest.mark.parametrize("signal", list(INJECTED), ids=lambda signal: signal.value)
def test_a_drift_of_its_critical_threshold_is_critical(
    home: Path, capsys: pytest.CaptureFixture[str], signal: SignalName
) -> None:
    change, _ = INJECTED[signal]
    # The divergence needs more sessions to be sure of half a nat.
    end = store_traffic(home, change, per_day=1000 if signal is SignalName.INTENTS else PER_DAY)
    assert freeze() == 0
    levels = []
    for hours in (18, 12, 6, 0):
        code, document = checked(capsys, end - hours * 3600.0)
        levels.append(document["variants"]["stable"]["signals"][signal]["level"])
    assert levels[-1] == "critical"
    assert code == 1
    (finding,) = [item for item in document["findings"] if item["signal"] == signal]
    since = datetime.fromisoformat(finding["since"])
    deadline = datetime.fromisoformat(finding["sla"]["acknowledge_by"])
    assert since.timestamp() <= end
    assert deadline > since
    assert finding["evidence"]["slow"]["n_current"] >= 100


def test_a_brand_new_intent_is_told_by_name_and_breaks_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = store_traffic(home, move_intents(0.15, to=NEW_CODE))
    assert freeze() == 0
    code, document = checked(capsys, end)
    signals = document["variants"]["stable"]["signals"]
    assert signals["unseen_intents"]["level"] == "critical"
    assert NEW_INTENT in signals["unseen_intents"]["slow"]["detail"]["new_intents"]
    assert 0.0 < signals["intents"]["slow"]["effect"] < 1.0
    assert NEW_INTENT in signals["intents"]["slow"]["detail"]["contributions"]
    assert code == 1


def test_one_session_with_a_new_intent_is_no_finding(
    calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EventStore(calm / "events" / "events.db")
    file.append([outcome("chatcmpl-x", unit="x", intent="never_seen", finished_at=END - 60)])
    file.close()
    assert freeze() == 0
    code, document = checked(capsys, END)
    assert (code, document["level"]) == (0, "ok")


def test_a_finding_opens_once_and_ends_only_after_two_quiet_checks(
    unsure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze("--variant", "stable") == 0
    changes = []
    for at in (END - 6 * 3600.0, END):
        _, document = checked(capsys, at)
        changes.append(news_of("confidence", document))
    assert changes == [["opened"], []]
    # The traffic after the drift is that of before it, moved: quiet from here on.
    path = unsure / "events" / "events.db"
    _copy_reference(path, END)
    levels = []
    for n in range(5, 9):
        _, document = checked(capsys, END + n * 6 * 3600.0)
        level = document["variants"]["stable"]["signals"]["confidence"]["level"]
        levels.append((level, news_of("confidence", document)))
    assert levels == [
        ("critical", []),
        ("ok", ["resolved"]),
        ("ok", []),
        ("ok", []),
    ]


def news_of(signal: str, document: Any) -> list[str]:
    return [item["change"] for item in document["changes"] if item["signal"] == signal]


def _copy_reference(path: Path, since: float) -> None:
    """Append the first days of the file again, later."""
    db = sqlite3.connect(path)
    shift = since - START
    columns = [row[1] for row in db.execute("PRAGMA table_info(outcomes)")]
    changed = {
        "inference_id": "inference_id || '-again'",
        "unit": "unit || '-again'",
        "finished_at": "finished_at + :shift",
    }
    chosen = ", ".join(changed.get(name, name) for name in columns)
    with db:
        db.execute(
            f"INSERT INTO outcomes ({', '.join(columns)}) SELECT {chosen} FROM outcomes "  # noqa: S608
            "WHERE finished_at < :until AND variant = 'stable'",
            {"shift": shift, "until": START + 3 * DAY_S},
        )
    db.close()


def test_a_check_of_an_earlier_moment_changes_nothing(
    unsure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze() == 0
    checked(capsys, END)
    before = {path.name: path.read_bytes() for path in (unsure / "drift").glob("*.json*")}
    code, document = checked(capsys, ONSET)
    assert code == 0
    assert "nothing is remembered" in document["notes"][0]
    assert {path.name: path.read_bytes() for path in (unsure / "drift").glob("*.json*")} == before


def test_too_little_traffic_is_inconclusive(calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert freeze() == 0
    code, document = checked(capsys, END + 30 * DAY_S)
    assert (code, document["level"]) == (5, "insufficient_data")
    assert "no requests" in " ".join(document["variants"]["stable"]["notes"])
    assert run(["retrain", "check", "--json"]) == 0  # not knowing is no bad record
    triggers = json.loads(capsys.readouterr().out)["triggers"]
    (drift,) = [item for item in triggers if item["kind"] == "drift"]
    assert drift["fired"] is None


def test_critical_drift_asks_for_a_retrain_check(
    unsure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze() == 0
    _, document = checked(capsys, END)
    assert document["retrain"]["due"] is True
    capsys.readouterr()
    assert run(["retrain", "check", "--json"]) == 0
    fired = [t["kind"] for t in json.loads(capsys.readouterr().out)["triggers"] if t["fired"]]
    assert "drift" in fired


def test_a_short_baseline_is_refused_unless_asked_for(
    calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--since", moment(ONSET - DAY_S)]
    assert freeze(*options) == 5
    assert "1.0 days of traffic; 7 are needed" in capsys.readouterr().err
    assert not (calm / "drift" / "baseline.json").exists()
    assert freeze(*options, "--allow-short", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["provisional"] is True


def test_a_variant_with_few_sessions_does_not_keep_the_others_from_a_baseline(
    calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EventStore(calm / "events" / "events.db")
    file.append([outcome("chatcmpl-c", unit="c", variant="candidate", finished_at=ONSET - 60)])
    file.close()
    assert freeze("--json") == 0
    said = capsys.readouterr()
    assert list(json.loads(said.out)["variants"]) == ["stable"]
    assert "left out ['candidate']" in said.err
    assert freeze("--variant", "candidate") == 5


def test_compare_judges_two_frozen_periods(
    unsure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = unsure / "later.json"
    assert freeze() == 0
    options = ["--since", moment(ONSET), "--until", moment(END), "--allow-short"]
    assert run(["drift", "baseline", *options, "--out", str(later)]) == 0
    first = unsure / "drift" / "baseline.json"
    capsys.readouterr()
    assert run(["drift", "compare", str(first), str(later), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["variants"]["stable"]["signals"]["confidence"]["level"] == "critical"
    assert run(["drift", "compare", str(first), str(first)]) == 0


def _altered(path: Path) -> None:
    document = json.loads(path.read_text())
    # So little that the sums remain those of some data.
    document["variants"]["stable"]["summary"]["confidence"]["sum"] *= 0.99999
    path.write_text(json.dumps(document))


def _newer(path: Path) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 99}))


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _gone(path: Path) -> None:
    path.unlink()


def _counted_otherwise(path: Path) -> None:
    write_config(path.parents[1], fallback_intents=["other"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_altered, "was altered"),
        (_newer, "schema version 99"),
        (_torn, "is no baseline"),
        (_gone, "make one: carril drift baseline"),
        (_counted_otherwise, "make the baseline again"),
    ],
)
def test_a_baseline_that_cannot_be_trusted_is_refused(
    calm: Path, capsys: pytest.CaptureFixture[str], spoil: Any, said: str
) -> None:
    assert freeze() == 0
    spoil(calm / "drift" / "baseline.json")
    assert run(["drift", "check", "--at", moment(END)]) == 2
    assert said in capsys.readouterr().err


def test_without_an_event_file_it_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", "baseline"]) == 3
    assert "no events at" in capsys.readouterr().err


def test_a_policy_that_makes_no_sense_names_the_field(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(home, signals={"tokens": {"warning": 0.5, "critical": 0.3}})
    assert run(["drift", "baseline"]) == 2
    assert "signals.tokens" in capsys.readouterr().err


def test_the_shipped_policy_has_the_thresholds_of_the_design() -> None:
    from experiments.drift.policy import read_policy

    shipped = read_policy(Path(__file__).parents[4] / "drift.yaml")
    assert shipped.signals == DriftPolicy().signals
    assert shipped.fallback_intents == {"no_entendido", "fuera_de_dominio"}


def test_simulate_proves_the_detector(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runs", "1", "--days", "5", "--sessions-per-day", "500"]
    assert run(["drift", "simulate", *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] is True
    assert [item["critical"] for item in document["detections"]] == [1] * 7
    assert document["new_intent_kl_finite"] is True


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_simulate_proves_the_detector_on_twenty_months(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drift", "simulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["false_alarms"]["critical_per_30_days"] <= 1.0
    assert [item["critical"] for item in document["detections"]] == [20] * 7
