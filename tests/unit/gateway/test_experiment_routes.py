"""The state of experiments over HTTP."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.experiments.analysis.sessions import traffic, write
from tests.unit.gateway.builders import Gateway
from tests.unit.gateway.over_http import MakeGateway, keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def with_traffic(home: Path) -> Path:
    (home / "events").mkdir(parents=True)
    return write(
        home / "events" / "events.db",
        traffic(300, share=10, salt="okla-v1-v2", experiment="okla-v1-v2"),
    )


async def test_experiments_are_listed_with_their_sessions(
    gateway: Gateway, with_traffic: Path
) -> None:
    async with gateway.client() as client:
        body = (await client.get("/v1/experiments")).json()
        one = (await client.get("/v1/experiments/okla-v1-v2")).json()
    (row,) = body["data"]
    assert row["experiment"] == "okla-v1-v2"
    assert row["split"] == {"candidate": 0.1, "stable": 0.9}
    assert sum(row["units"].values()) == 300
    assert one["versions"] == [row]
    assert one["declaration"]["control"] == "stable"
    assert one["declaration"]["metrics"]["thumbs"]["role"] == "primary"


async def test_results_have_health_verdict_and_metrics(
    gateway: Gateway, with_traffic: Path
) -> None:
    async with gateway.client() as client:
        response = await client.get("/v1/experiments/okla-v1-v2/results")
        again = await client.get("/v1/experiments/okla-v1-v2/results")
    body = response.json()
    assert response.status_code == 200
    assert body["verdict"] == "NO_CLEAR_WINNER"
    assert body["reasons"][0]["code"] == "INSUFFICIENT"
    assert body["arms"]["control"]["variant"] == "stable"
    assert body["arms"]["control"]["units"] + body["arms"]["treatment"]["units"] == 300
    assert not body["health"]["conflicts"]
    assert {metric["name"] for metric in body["metrics"]} >= {"thumbs", "errors", "latency_p95"}
    assert again.content == response.content


async def test_without_events_there_is_a_list_and_a_reason_instead_of_results(
    gateway: Gateway, home: Path
) -> None:
    async with gateway.client() as client:
        listed = (await client.get("/v1/experiments")).json()
        results = await client.get("/v1/experiments/okla-v1-v2/results")
    assert [row["units"] for row in listed["data"]] == [{}]
    assert results.status_code == 200
    assert results.json()["verdict"] is None
    assert "does not exist" in results.json()["detail"]


async def test_an_unknown_experiment_is_not_found_and_keys_are_asked_for(
    gateway: Gateway, make_gateway: MakeGateway, home: Path
) -> None:
    async with gateway.client() as client:
        missing = await client.get("/v1/experiments/nope/results")
        option = await client.get("/v1/experiments/--help")
    assert (missing.status_code, option.status_code) == (404, 404)
    assert missing.json()["error"]["code"] == "experiment_not_found"
    assert "configured: okla-v1-v2" in missing.json()["error"]["message"]
    async with make_gateway(**keys(secret="dealer")).client() as client:
        assert (await client.get("/v1/experiments")).status_code == 401


def test_declarations_and_the_way_to_the_analysis_load_no_native_statistics() -> None:
    code = (
        "import sys, serve_app.config, serve_app.gateway.analysis_process\n"
        "sys.exit(bool({'numpy', 'scipy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
