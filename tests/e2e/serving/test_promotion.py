"""A promotion changes what is served, a rollback changes it back, and no request fails."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from experiments.registry import ModelVersion, Registry
from tests.e2e.serving.conftest import ROOT, Server
from tests.unit.training.registry.builders import gate_report, write_model
from training.registry import register

CHAT = {
    "model": "okla-chat",
    "messages": [{"role": "user", "content": "klk, busco una yipeta"}],
    "max_tokens": 8,
}


class Life:
    """A running server with its registry and the config that promotions edit."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.registry = Registry(server.home / "registry")
        self.config = server.home / "serve_config.yaml"
        text = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
        port = server.config["http_options"]["port"]
        self.config.write_text(text.replace("port: 8000", f"port: {port}"), encoding="utf-8")
        for name in ("okla-v1", "okla-v2"):
            register(ROOT / f"models/okla/{name}.manifest.json", registry=self.registry)
        self.v1, self.v2 = self.registry.versions()

    def gate(self, candidate: ModelVersion, champion: ModelVersion | None) -> str:
        path = self.server.home / f"gate-{candidate.version}.json"
        return str(gate_report(path, candidate, champion))

    def models(self, *arguments: str, code: int = 0) -> str:
        done = self.server.carril("models", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def served(self) -> dict[str, str]:
        body = self.get("/readyz")
        assert body["status"] == "ready", body
        return {
            name: replica["model_sha256"]
            for name, variant in body["variants"].items()
            for replica in variant["replicas"]
        }

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.server.url}{path}", timeout=30, trust_env=False).json()

    def allocation(self) -> dict[str, int]:
        raw = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        gateway = raw["applications"][0]["deployments"][0]["user_config"]
        allocation: dict[str, int] = gateway["experiments"]["okla-v1-v2"]["allocation"]
        return allocation


@pytest.fixture(scope="module")
def without_mlflow() -> Iterator[None]:
    """MLflow beside the registry has tests of its own, and takes seconds in each command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRIL_TRACKING", "off")
        yield


@pytest.fixture(scope="module")
def life(without_mlflow: None, server: Server) -> Life:
    return Life(server)


class Traffic(threading.Thread):
    """Asks five times a second, and keeps what went wrong."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._url = url
        self._stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            n = 0
            while not self._stopping.wait(0.2):
                n += 1
                try:
                    response = client.post(
                        "/v1/chat/completions",
                        json=CHAT,
                        headers={"x-session-id": f"s{n}", "cache-control": "no-cache"},
                    )
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.statuses.append(response.status_code)
                if response.status_code != 200:
                    self.failures.append(response.text)

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=60)


@pytest.mark.timeout(900)  # with the start of the server, on a machine that has other work
def test_promotion_and_rollback_change_what_is_served(life: Life) -> None:
    v1, v2 = life.v1, life.v2
    traffic = Traffic(life.server.url)
    traffic.start()
    try:
        deploy = ("--deploy", str(life.config))
        life.models("promote", "okla-v1", "--gate", life.gate(v1, None), *deploy)
        assert life.served() == {"stable": v1.sha256, "candidate": v2.sha256}
        gate = life.gate(v2, v1)
        life.models("promote", "okla-v2", "--to", "challenger", "--gate", gate, *deploy)
        assert life.allocation() == {"stable": 100, "candidate": 0}
        life.models("verify", "--served", "--url", life.server.url)

        life.models("promote", "okla-v2", *deploy)
        assert life.served() == {"stable": v2.sha256, "candidate": v2.sha256}
        assert life.get("/models/okla/production")["version"] == str(v2.version)

        started = time.monotonic()
        life.models("rollback", "okla", "--reason", "precios inventados", *deploy)
        elapsed_s = time.monotonic() - started
        assert life.served() == {"stable": v1.sha256, "candidate": v2.sha256}
        production = life.get("/models/okla/production")
        assert (production["version"], production["promoted_by"]) == (str(v1.version), "rollback")
        assert "is served by stable" in life.models("verify", "--served")
        assert elapsed_s < 60  # about 5 s where nothing else runs
    finally:
        traffic.stop()
    assert traffic.failures == []
    assert len(traffic.statuses) > 10
    assert "# put API keys under auth.keys" in life.config.read_text(encoding="utf-8")


def test_a_model_that_does_not_load_is_not_promoted(life: Life, tmp_path: Path) -> None:
    """Its gate report is in order, its hash too; llama.cpp cannot read it."""
    junk = register(
        write_model(tmp_path, "3.0.0", content=b"GGUF" + bytes(4096)), registry=life.registry
    ).version
    served, config = life.served(), life.config.read_bytes()
    champion = life.registry.resolve("okla@champion")
    arguments = ("promote", "okla@3.0.0", "--gate", life.gate(junk, champion))
    output = life.models(*arguments, "--deploy", str(life.config), code=1)
    assert "okla-stable" in output
    assert life.registry.resolve("okla@champion") == champion
    assert life.config.read_bytes() == config
    assert life.served() == served
    assert json.loads(life.server.carril("models", "verify", "--served", "--json").stdout)["ok"]
