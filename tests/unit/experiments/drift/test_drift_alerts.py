"""Alerts about drift, and the scheduled job: who is told, when, and how often."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from experiments.alerts.config import AlertConfig, Channel
from experiments.drift.baseline import make_baseline, write_baseline
from experiments.drift.policy import DriftPolicy
from experiments.drift.run import run_check
from experiments.drift.source import read_traffic
from experiments.drift.traffic_model import FALLBACK, scale_confidence
from tests.unit.experiments.alerts.test_delivery import Receiver, receiver
from tests.unit.experiments.drift.stored import DAY_S, REFERENCE_DAYS, START, store_traffic

__all__ = ["receiver"]  # the fixture

ONSET = START + REFERENCE_DAYS * DAY_S


@pytest.fixture
def home(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    store_traffic(made, scale_confidence(0.3))
    policy = DriftPolicy(fallback_intents=frozenset({FALLBACK}))
    seen = read_traffic(made / "events" / "events.db", policy, since=START, until=ONSET)
    now = datetime.fromtimestamp(ONSET, UTC)
    frozen = make_baseline(seen, policy, since=START, until=ONSET, now=now)
    write_baseline(frozen, made / "drift" / "baseline.json")
    return made


def checked(home: Path, at: float, host: str, url: str) -> Any:
    policy = DriftPolicy(
        fallback_intents=frozenset({FALLBACK}),
        alerts=AlertConfig(
            channels=(
                Channel(name="ops", kind="slack", url_env="HOOK", min_level="critical"),
                Channel(name="team", kind="teams", url_env="HOOK"),
            ),
            allowed_hosts=frozenset({host}),
            allow_private=True,
            attempts=2,
        ),
    )
    return run_check(home, policy, now=at, environ={"HOOK": url}, sleep=lambda _: None)


def test_people_are_told_once_and_a_failed_delivery_is_repeated(
    home: Path, receiver: Receiver
) -> None:
    end = ONSET + 2 * DAY_S
    receiver.replies = [(500, {}), (500, {}), (200, {})]  # the first channel is down
    first = checked(home, end - 12 * 3600.0, receiver.host, receiver.url)
    assert [d.delivered for d in first.deliveries] == [False, True]
    second = checked(home, end - 6 * 3600.0, receiver.host, receiver.url)
    assert [(d.channel, d.delivered) for d in second.deliveries] == [("ops", True)]
    third = checked(home, end, receiver.host, receiver.url)
    assert third.deliveries == ()
    assert third.level == "critical"  # it goes on, but it is no news
    told = json.loads(receiver.got[-1][1])
    assert "confidence drop" in told["text"]
    assert "confidence drop opened (critical)" in json.dumps(told, ensure_ascii=False)
    assert (home / "drift" / "history.jsonl").read_text().count("\n") == 3


def run_job(home: Path, *arguments: str, **policy: float) -> subprocess.Popen[str]:
    config = home / "drift.yaml"
    config.write_text(json.dumps({"fallback_intents": [FALLBACK], **policy}), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.jobs.drift", "--config", str(config), *arguments],
        env={**os.environ, "CARRIL_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_job_checks_once(home: Path) -> None:
    job = run_job(home, "--once")
    out, err = job.communicate(timeout=240)
    # Now is long after the traffic: nothing to judge, which is not the same as fine.
    assert (job.returncode, err) == (5, "")
    assert "insufficient_data" in out


def test_the_job_goes_on_until_it_is_told_to_end(home: Path) -> None:
    history = home / "drift" / "history.jsonl"
    job = run_job(home, check_every_h=0.0005)
    deadline = time.monotonic() + 240
    try:
        while not history.exists() or history.read_text().count("\n") < 2:
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 0
    assert err.endswith("ended on request\n")
    assert out.startswith("checking for drift every 0.0005 h\n")
    assert out.count("insufficient_data") >= 2


@pytest.mark.parametrize(
    "arguments", [["--once", "--every", "6h"], ["--every", "6 weeks"], ["--every", "9999999d"]]
)
def test_the_job_refuses_what_it_does_not_understand(home: Path, arguments: list[str]) -> None:
    job = run_job(home, *arguments)
    _, err = job.communicate(timeout=240)
    assert job.returncode == 2
    assert err.startswith("error: ")
