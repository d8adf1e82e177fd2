"""Canaries on a real gateway: bad treatments are taken back by themselves, a good one goes up."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import random
from threading import Event, Thread
from typing import Any

import pytest

from experiments.assignment import Allocation, assign
from serve_app.config import parse_gateway_config
from tests.integration.conftest import GATEWAY, Cluster, chat, wait_until
from tests.integration.gateway.load import ask, client

NAME = "okla-v1-v2"
DETECTED_WITHIN_S = 10.0
QUICK: dict[str, Any] = {
    # Small, so that a test takes seconds; the bounds are computed as ever.
    "min_units": 30,
    "min_step_s": 1,
    "guardrails": {
        "errors": {"margin": 0.3},
        # Seconds, not a share: on a busy machine the control's answers take long as well.
        "latency": {"margin": 0.5},
    },
}


def experiments(**canary: Any) -> dict[str, Any]:
    """Return a new version of the experiment, without traffic for its treatment."""
    return {
        NAME: GATEWAY["experiments"][NAME]
        | {
            "salt": uuid.uuid4().hex,
            "version": time.time_ns() // 1_000_000 % 1_000_000_000,
            "allocation": {"stable": 100, "candidate": 0},
            "canary": QUICK | canary,
        }
    }


def new_session() -> str:
    return uuid.uuid4().hex


@contextmanager
def traffic(
    cluster: Cluster, session: Callable[[], str] = new_session, per_second: float = 30
) -> Iterator[None]:
    """Send requests of ever new sessions."""
    stop = Event()

    async def send() -> None:
        async with client(200) as http, asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not stop.is_set():
                group.create_task(ask(http, cluster.url, chat(temperature=1), session()))
                due = max(due + 1 / per_second, time.monotonic() - 1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    thread = Thread(target=lambda: asyncio.run(send()))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def carril(cluster: Cluster, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cluster.cli.main", "canary", *arguments]
    environment = {**os.environ, "CARRIL_HOME": str(cluster.home)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def start(cluster: Cluster, *options: str) -> "subprocess.Popen[str]":
    config = str(cluster.home / "serve_config.yaml")
    return carril(cluster, "run", NAME, "--config", config, "--json", *options)


def answer(process: "subprocess.Popen[str]", seconds: float = 120) -> tuple[int, Any, str]:
    """Return exit code, JSON and messages of a command that ends by itself."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, json.loads(out) if out else None, err


def ask_carril(cluster: Cluster, *arguments: str) -> Any:
    code, document, messages = answer(carril(cluster, *arguments, "--json"))
    assert code == 0, messages
    return document


def state_of(cluster: Cluster) -> Mapping[str, Any]:
    path = cluster.home / "canary" / NAME / "state.json"
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return state


def wait_for_step(cluster: Cluster, declared: Mapping[str, Any], percent: float) -> None:
    """Wait until the canary of this very version, not of the test before, has a share in force."""

    def reached() -> bool:
        state = state_of(cluster)
        return (
            state.get("version") == declared[NAME]["version"]
            and state["status"] == "ramping"
            and state["served"]["percent"] == percent
        )

    wait_until(reached, f"a canary with {percent:g} % in force", 120)


def wait_for_sessions(cluster: Cluster, declared: Mapping[str, Any], n_per_arm: int) -> None:
    sql = "SELECT COUNT(*) FROM exposures WHERE experiment = ? AND version = ? GROUP BY variant"

    def enough() -> bool:
        counts = cluster.query(sql, NAME, declared[NAME]["version"])
        return len(counts) == 2 and min(n for (n,) in counts) >= n_per_arm

    wait_until(enough, f"{n_per_arm} sessions in each arm", 60)


def with_split(declared: Mapping[str, Any], candidate: int) -> dict[str, Any]:
    weights = {"stable": 100 - candidate, "candidate": candidate}
    return {NAME: declared[NAME] | {"allocation": weights}}


def last_decision(cluster: Cluster) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the last line of the history, and the evidence file that it names."""
    row = ask_carril(cluster, "history", NAME)["decisions"][-1]
    return row, json.loads(Path(row["evidence"]).read_bytes())


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        # Past the warm-up, which would keep a model that fails every time from serving at all.
        pytest.param({"echo": {"fail_rate": 1.0}, "warmup": False}, "ERROR_BURST", id="errors"),
        pytest.param({"echo": {"prefill_s": 2.0}}, "GUARDRAIL_BREACHED", id="latency"),
    ],
)
def test_a_treatment_that_turns_bad_is_taken_back_by_itself(
    cluster: Cluster, fault: Mapping[str, Any], code: str
) -> None:
    # The step is held, as a long ramp would hold it, while the treatment turns bad.
    declared = experiments(min_step_s=3600)
    cluster.deploy(gateway={"experiments": declared})
    with traffic(cluster):
        controller = start(cluster, "--steps", "50,100")
        wait_for_step(cluster, declared, 50.0)
        wait_for_sessions(cluster, declared, 105)
        bad_at = time.time()
        # Past the file, as `serve deploy` of another one, and not waited for: it will not last.
        cluster.deploy_unchecked(gateway={"experiments": with_split(declared, 50)}, candidate=fault)
        exit_code, document, messages = answer(controller)
    assert (exit_code, document["status"]) == (1, "rolled_back"), messages
    row, record = last_decision(cluster)
    assert record["decision"]["reasons"][0]["code"] == code
    back_at = record["observation"]["at"] + row["seconds_to_apply"]
    sys.stdout.write(
        f"\n{messages}{code}: {back_at - bad_at:.1f} s from asking for a bad model to all traffic "
        "back on the control\n"
    )
    # From the breach on: the first failure, or the last look that did not show it.
    assert row["seconds_to_detect"] + row["seconds_to_apply"] < DETECTED_WITHIN_S
    assert f"evidence: {row['evidence']}" in messages
    # The candidate's new model is still there: only the split was changed, in the file too.
    assert "candidate: 0" in (cluster.home / "serve_config.yaml").read_text(encoding="utf-8")
    assert fault["echo"].keys() <= _live_echo(cluster).keys()
    assert ask_carril(cluster, "history", NAME, "--replay")["faults"] == []


def _live_echo(cluster: Cluster) -> dict[str, Any]:
    app = cluster.api.details()["applications"]["okla-candidate"]["deployed_app_config"]
    echo: dict[str, Any] = app["deployments"][0]["user_config"]["echo"]
    return echo


def test_a_good_treatment_reaches_100_percent_through_a_restarted_controller(
    cluster: Cluster,
) -> None:
    declared = experiments()
    cluster.deploy(gateway={"experiments": declared})
    before = cluster.pids()
    with traffic(cluster):
        first = start(cluster, "--steps", "40,100")
        wait_for_step(cluster, declared, 40.0)
        first.send_signal(signal.SIGKILL)
        first.wait()
        exit_code, document, messages = answer(start(cluster))
    assert (exit_code, document["status"], document["percent"]) == (0, "completed", 100.0), messages
    shown = ask_carril(cluster, "history", NAME, "--replay")
    rows = [row for row in shown["decisions"] if row["evidence"]][-3:]
    assert [row["action"] for row in rows] == ["start", "advance", "complete"]
    assert shown["faults"] == []
    assert cluster.pids() == before


def test_a_crooked_split_pauses_and_somebody_elses_split_is_left_alone(cluster: Cluster) -> None:
    declared = experiments(min_step_s=3600)
    cluster.deploy(gateway={"experiments": declared})
    half = with_split(declared, 50)
    allocation = Allocation.from_percent(half[NAME]["allocation"], control="stable")

    def mostly_control() -> str:
        """Return a session; most of those with the treatment get lost on their way."""
        session = new_session()
        while (
            assign(session, allocation, salt=declared[NAME]["salt"]).variant == "candidate"
            and random() < 0.8
        ):
            session = new_session()
        return session

    with traffic(cluster, mostly_control):
        controller = start(cluster, "--steps", "50,100")
        wait_for_step(cluster, declared, 50.0)
        wait_until(lambda: state_of(cluster)["status"] == "paused", "a pause", 60)
        _, record = last_decision(cluster)
        assert record["decision"]["reasons"][0]["code"] == "SAMPLE_RATIO_MISMATCH"
        assert state_of(cluster)["served"]["percent"] == 50.0
        # What the controller knows is stale from here on.
        theirs = {"experiments": with_split(declared, 30), "cache": {"ttl_s": 17}}
        cluster.deploy_unchecked(gateway=theirs)
        file = (cluster.home / "serve_config.yaml").read_bytes()
        exit_code, document, messages = answer(controller)
    assert (exit_code, document["status"]) == (1, "conflict"), messages
    assert "CONFIG_FOREIGN" in document["why"]
    code, _, messages = answer(carril(cluster, "rollback", NAME))
    assert code == 1
    assert "nothing was changed" in messages
    assert cluster.readyz()["config"] == parse_gateway_config({**GATEWAY, **theirs}).config_hash
    assert (cluster.home / "serve_config.yaml").read_bytes() == file
