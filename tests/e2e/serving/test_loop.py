"""The whole way from data to production and back, in one command, under traffic."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments.registry import Registry
from tests.e2e.serving.conftest import ROOT, Server

LOOP = ROOT / "training" / "configs" / "loop.yaml"
STEPS = [
    "generate",
    "train",
    "export",
    "baseline",
    "evaluate",
    "gate",
    "register",
    "deploy at 0 %",
    "promote",
    "rollback",
    "restore",
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_loop_goes_the_whole_way_and_nobody_notices(server: Server) -> None:
    config, before = server.write(), _served(server)

    done = server.carril("loop", "--config", str(LOOP), "--serve-config", str(config), "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"]
    assert [step["name"] for step in document["steps"]] == STEPS
    traffic = document["traffic"]
    assert traffic["n_failures"] == 0
    assert traffic["n_requests"] > 50
    # The candidate answered after its promotion, and the one before it after the rollback.
    registry = Registry(server.home / "registry")
    candidate = registry.resolve("okla-rehearsal@0.1.0")
    assert candidate.sha256[:12] in traffic["models"]
    assert registry.resolve("okla-rehearsal@champion").version != candidate.version
    kinds = [entry.kind for entry in registry.entries()]
    assert kinds[-1] == "rollback"
    assert _served(server) == before
    gate = json.loads(next((server.home / "loops").glob("*/gate.json")).read_text())
    assert (gate["verdict"], gate["candidate"]["sha256"]) == ("PASS", candidate.sha256)
    assert Path(document["steps"][1]["artefact"]).is_file()


def _served(server: Server) -> dict[str, set[str]]:
    """Return the hashes of the model files that the replicas of each variant run."""
    body: dict[str, Any] = httpx.get(f"{server.url}/readyz", timeout=30, trust_env=False).json()
    return {
        name: {replica["model_sha256"] for replica in variant["replicas"]}
        for name, variant in body["variants"].items()
    }
