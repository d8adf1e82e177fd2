"""The watch for drift as a job on a real cluster: scheduled, telling people, asking to retrain."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.drift.traffic_model import FALLBACK, scale_confidence
from tests.integration.cluster.conftest import Sandbox, tiny_config
from tests.unit.experiments.alerts.test_delivery import Receiver, listening
from tests.unit.experiments.drift.stored import DAY_S, REFERENCE_DAYS, store_traffic

SECRET = "a key of this test"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with listening() as found:
        yield found


@pytest.fixture(scope="module")
def box(new_sandbox: Callable[[], Sandbox], receiver: Receiver) -> Iterator[Sandbox]:
    """A cluster that was started with the address and the key of the alerts, as people do."""
    box = new_sandbox()
    box.environment.update(TEAM_HOOK=receiver.url, TEAM_KEY=SECRET)
    config = tiny_config() | {"applications": tiny_config()["applications"][:1]}
    try:
        result = box.up(box.write(config), "--no-haproxy")
        assert result.returncode == 0, result.stderr
        yield box
    finally:
        box.carril("down", "--now")


def policy(box: Sandbox, receiver: Receiver) -> str:
    channel = {"kind": "webhook", "url_env": "TEAM_HOOK", "secret_env": "TEAM_KEY"}
    unknown = {"name": "ops", "kind": "slack", "url_env": "NOBODY_SET_THIS"}
    document = {
        "fallback_intents": [FALLBACK],
        "alerts": {
            "channels": [{"name": "team", **channel}, unknown],
            "allowed_hosts": [receiver.host],
            "allow_private": True,
        },
    }
    path = box.directory / "drift.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_watch_finds_a_drift_tells_people_once_and_asks_for_a_retraining(
    box: Sandbox, receiver: Receiver
) -> None:
    home, config = box.directory / "var", policy(box, receiver)
    refused = box.carril("jobs", "submit", "drift", "--config", config)
    assert refused.returncode == 2
    assert "make one: carril drift baseline" in refused.stderr

    start = time.time() - (REFERENCE_DAYS + 2.0) * DAY_S
    end = store_traffic(home, scale_confidence(0.3), start=start)
    onset = end - 2.0 * DAY_S
    options = ("--config", config)
    made = box.carril("drift", "baseline", "--until", moment(onset), *options)
    assert made.returncode == 0, made.stderr
    submitted = box.carril("jobs", "submit", "drift", *options, "--every", "3s", "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout)["submission_id"] == "drift"
    again = box.carril("jobs", "submit", "drift", *options, "--json")
    assert json.loads(again.stdout)["new"] is False
    assert "A new attempt: carril jobs stop drift, then submit" in again.stderr
    history, deadline_s = home / "drift" / "history.jsonl", time.monotonic() + DEADLINE_S
    while len(lines(history)) < 2:
        assert time.monotonic() < deadline_s, box.carril("jobs", "logs", "drift").stdout
        time.sleep(0.2)
    stopped = box.carril("jobs", "stop", "drift", "--json")
    assert json.loads(stopped.stdout)["state"] == "stopped", stopped.stderr

    opened, same = lines(history)[:2]
    assert (opened["level"], same["level"]) == ("critical", "critical")
    assert [item["change"] for item in opened["changes"]] == ["opened"]
    assert same["changes"] == []
    ((headers, body),) = receiver.got  # once, however often it is found
    expected = hmac.new(
        SECRET.encode(), f"{headers['x-carril-timestamp']}.".encode() + body, hashlib.sha256
    )
    assert headers["x-carril-signature"] == f"v1={expected.hexdigest()}"
    assert json.loads(body)["summary"] == "stable: confidence drop"

    said = box.carril("jobs", "logs", "drift").stdout
    assert "nobody is told by ops: environment variable NOBODY_SET_THIS is not set" in said
    assert "alert to team delivered" in said
    assert "retraining due: True" in said
    assert "ended on request" in said
    retrain = json.loads(box.carril("retrain", "check", "--json").stdout)
    assert "drift" in [item["kind"] for item in retrain["triggers"] if item["fired"]]
    (job,) = json.loads(box.carril("jobs", "ls", "--json").stdout)
    assert (job["submission_id"], job["state"]) == ("drift", "stopped")
