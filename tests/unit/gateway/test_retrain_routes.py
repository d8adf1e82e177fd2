"""`POST /retrain/check` and `carril retrain check`: one answer from the same files."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.cli.main import run
from experiments.events.records import Feedback
from experiments.events.store import EventStore
from experiments.registry import Registry
from experiments.retraining.history import Submission, record_submission
from tests.unit.gateway.builders import Gateway
from tests.unit.gateway.over_http import MakeGateway, keys
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import promote


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a champion and 55 rated answers."""
    home = tmp_path / "home"
    monkeypatch.setenv("CARRIL_HOME", str(home))
    registry = Registry(home / "registry")
    version = registered(registry, tmp_path, "1.0.0")
    promote("okla", registry=registry, gate=gate_report(tmp_path / "g.json", version), reason="r")
    store = EventStore(home / "events" / "events.db")
    store.append(_vote(n) for n in range(55))
    store.close()
    return home


def _vote(n: int) -> Feedback:
    return Feedback(
        feedback_id=f"f{n}",
        received_at=datetime.now(UTC).timestamp() - 3_600,
        tenant="dealer",
        metric="thumbs",
        metric_type="boolean",
        level="inference",
        direction="increase",
        target=f"chatcmpl-{n}",
        value=1.0,
        text=None,
        tags="{}",
        idempotency=None,
        request_hash="h",
        config_hash="c",
    )


def _submitted(home: Path, ago: timedelta) -> None:
    record_submission(
        home,
        Submission(
            at=datetime.now(UTC) - ago,
            by="ana",
            submission_id="finetune-1",
            dataset="d",
            dataset_sha256="d" * 64,
            config="c.yaml",
        ),
    )


async def test_the_route_says_that_it_is_time_and_why(gateway: Gateway, home: Path) -> None:
    async with gateway.client() as client:
        response = await client.post("/retrain/check")
    body = response.json()
    assert response.status_code == 200
    assert (body["model"], body["version"], body["due"]) == ("okla", "1.0.0", True)
    assert "55 new feedback examples, from 50 on" in body["reasons"]
    kinds = [trigger["kind"] for trigger in body["triggers"]]
    assert kinds == [
        "new_feedback", "model_age", "low_accuracy", "degradation", "new_data", "drift",
    ]  # fmt: skip


async def test_the_command_gives_the_same_answer(
    gateway: Gateway, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with gateway.client() as client:
        body = (await client.post("/retrain/check", json={"model": "okla"})).json()
    assert run(["retrain", "check", "--json", "--exit-code"]) == 0
    told = json.loads(capsys.readouterr().out)
    for document in (body, told):
        del document["checked_at"]
        for trigger in document["triggers"]:
            if trigger["kind"] == "model_age":  # grows while one asks
                trigger["value"] = trigger["detail"] = None
        document["reasons"] = len(document["reasons"])
    assert told == body


async def test_a_cool_down_begins_with_a_submission(
    gateway: Gateway, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _submitted(home, timedelta(minutes=1))
    (home / "drift").mkdir()
    (home / "drift" / "latest.json").write_text('{"level": "critical"}', encoding="utf-8")
    async with gateway.client() as client:
        body = (await client.post("/retrain/check", json={})).json()
    assert not body["due"]
    assert body["cooldown_until"] is not None
    assert "drift critical, from critical on" in body["reasons"]
    assert run(["retrain", "check", "--exit-code"]) == 5
    assert "cool-down" in capsys.readouterr().out


async def test_feedback_before_the_last_submission_is_not_new(gateway: Gateway, home: Path) -> None:
    _submitted(home, timedelta(minutes=1))
    async with gateway.client() as client:
        body = (await client.post("/retrain/check")).json()
    (feedback,) = [t for t in body["triggers"] if t["kind"] == "new_feedback"]
    assert (feedback["value"], feedback["fired"]) == (0, False)


async def test_thresholds_come_from_a_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("{min_new_feedback: 56, max_age_days: 100000}", encoding="utf-8")
    assert run(["retrain", "check", "--policy", str(policy), "--exit-code"]) == 5
    assert "nothing to do" in capsys.readouterr().out
    policy.write_text("{min_feedback: 56}", encoding="utf-8")
    assert run(["retrain", "check", "--policy", str(policy)]) == 2
    assert "min_feedback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "dealer"}, 404, "model"),
        ({"model": 7}, 400, "model"),
        ({"modle": "okla"}, 400, "modle"),
    ],
    ids=["unknown model", "no text", "unknown field"],
)
async def test_bad_requests_are_told(
    gateway: Gateway, home: Path, body: dict[str, object], status: int, param: str
) -> None:
    async with gateway.client() as client:
        response = await client.post("/retrain/check", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_callers_need_a_key_where_keys_are_configured(
    make_gateway: MakeGateway, home: Path
) -> None:
    async with make_gateway(**keys(sk="dealer")).client() as client:
        assert (await client.post("/retrain/check")).status_code == 401


async def test_unreadable_records_are_an_error_without_details(
    gateway: Gateway, home: Path
) -> None:
    (home / "retrain").mkdir(exist_ok=True)
    (home / "retrain" / "history.jsonl").write_text("{}\n", encoding="utf-8")
    async with gateway.client() as client:
        response = await client.post("/retrain/check")
    assert response.status_code == 500
    assert str(home) not in response.text


async def test_an_empty_home_knows_nothing_and_asks_for_nothing(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "new"))
    async with gateway.client() as client:
        body = (await client.post("/retrain/check")).json()
    assert (body["model"], body["due"], body["reasons"]) == (None, False, [])
    assert not (tmp_path / "new").exists()
