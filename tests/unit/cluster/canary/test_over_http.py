"""`carril canary run` as a user runs it, against a gateway over HTTP; Ray's dashboard is played."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from cluster.canary.split import read_declared
from cluster.cli.main import run
from tests.unit.cluster.canary.test_live import HELD, QUICK, Live
from tests.unit.cluster.steering.stage import NAME

_APPLICATIONS = "/api/serve/applications/"


class Site:
    """A gateway with traffic and the part of Ray's dashboard that deploys to it."""

    def __init__(self, folder: Path, canary: str, fault: dict[str, Any]) -> None:
        self.live = Live(folder, canary)
        self._raw = yaml.safe_load(self.live.text())
        self._fault = fault
        app = Starlette(
            routes=[
                Route(_APPLICATIONS, self._details, methods=["GET"]),
                Route(_APPLICATIONS, self._deploy, methods=["PUT"]),
                Mount("/", self._gateway),
            ]
        )
        settings = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> str:
        """Return the address once it answers."""
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        traffic = asyncio.create_task(self._traffic())
        await self._server.serve()
        traffic.cancel()

    async def _traffic(self) -> None:
        """Let new sessions ask; some after the treatment got its share, it turns bad."""
        n_treated = 0
        while True:
            answers = await self.live.ask(20)
            n_treated += sum(variant == "candidate" for _, variant in answers)
            if self._fault and n_treated > 30:
                self.live.turn("candidate", **self._fault)
                self._fault = {}
            await asyncio.sleep(0.05)

    async def _details(self, _request: Request) -> Response:
        apps = {
            app["name"]: {"status": "RUNNING", "deployed_app_config": app}
            for app in self._raw["applications"]
        }
        return JSONResponse({"applications": apps})

    async def _deploy(self, request: Request) -> Response:
        self._raw = await request.json()
        text = json.dumps(self._raw).encode()
        self.live.deploy(text, read_declared(text, NAME).served.config_hash)
        return JSONResponse({})

    async def _gateway(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.live.gateway.api(scope, receive, send)


@pytest.fixture
def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    canary, fault = request.param
    site = Site(tmp_path, canary, fault)
    address = site.start()
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setenv("CARRIL_URL", address)
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", address)
    try:
        yield site
    finally:
        site.stop()


def canary(site: Site, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Any, str]:
    config = ["--config", str(site.live.config), "--interval", "0.1", "--json"]
    code = run(["canary", "run", NAME, *config, *options])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


@pytest.mark.parametrize("site", [(HELD, {"fail_rate": 1.0})], indirect=True, ids=["errors"])
def test_the_command_takes_a_failing_treatment_back(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, messages = canary(site, capsys)
    assert (code, document["status"], document["percent"]) == (1, "rolled_back", 0.0)
    assert "start     candidate has 50 %" in messages
    assert "roll_back candidate has 0 %: ERROR_BURST" in messages
    assert re.search(r"detected [0-9]\.[0-9] s after the first sign of it\n", messages)
    assert run(["canary", "history", NAME, "--replay", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["decisions"][-1]
    assert (row["action"], Path(row["evidence"]).is_file()) == ("roll_back", True)
    assert row["seconds_to_detect"] + row["seconds_to_apply"] < 10
    assert f"evidence: {row['evidence']}\n" in messages


@pytest.mark.parametrize("site", [(QUICK, {})], indirect=True, ids=["good"])
def test_the_command_brings_a_good_treatment_to_100_percent(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, messages = canary(site, capsys)
    assert (code, document["status"], document["percent"]) == (0, "completed", 100.0), messages
    assert run(["canary", "rollback", NAME, "--config", str(site.live.config)]) == 0
    assert read_declared(site.live.text(), NAME).served.percent == 0.0
