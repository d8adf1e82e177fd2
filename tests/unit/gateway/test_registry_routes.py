"""The registry over HTTP."""

from pathlib import Path

import pytest

from experiments.registry import Registry
from tests.unit.gateway.builders import Gateway
from tests.unit.gateway.over_http import MakeGateway, keys
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import promote


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of the gateway's CARRIL_HOME: a champion and a candidate."""
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    registry = Registry(tmp_path / "home" / "registry")
    version = registered(registry, tmp_path, "1.0.0")
    promote(
        "okla", registry=registry, gate=gate_report(tmp_path / "g.json", version), reason="secret"
    )
    registered(registry, tmp_path, "2.0.0")
    return registry


async def test_models_are_listed_with_their_states(gateway: Gateway, registry: Registry) -> None:
    async with gateway.client() as client:
        (model,) = (await client.get("/models")).json()["models"]
    assert (model["id"], model["production"]) == ("okla", "1.0.0")
    assert (model["candidate"], model["challenger"]) == ("2.0.0", None)
    assert [(v["version"], v["state"], v["lifecycle"]) for v in model["versions"]] == [
        ("1.0.0", "production", "promoted"),
        ("2.0.0", "training", "candidate"),
    ]


async def test_the_version_in_production_comes_with_what_it_rests_on(
    gateway: Gateway, registry: Registry
) -> None:
    version = registry.version("okla", "1.0.0")
    async with gateway.client() as client:
        response = await client.get("/models/okla/production")
    body = response.json()
    assert response.status_code == 200
    assert (body["id"], body["version"], body["sha256"]) == ("okla", "1.0.0", version.sha256)
    assert body["dataset_sha256"] == version.dataset_sha256
    assert body["gate_report"]["verdict"] == "PASS"
    assert body["previous"] is None
    # Neither people nor places on the disk are anybody's business who only has an API key.
    assert not {"ana", "secret", str(registry.root)} & set(response.text.split('"'))


@pytest.mark.parametrize("name", ["dealer", "okla-chat", "..%2Fokla"])
async def test_an_unknown_model_is_not_found(
    gateway: Gateway, registry: Registry, name: str
) -> None:
    async with gateway.client() as client:
        response = await client.get(f"/models/{name}/production")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] in ("model_not_found", "not_found")
    assert error["request_id"]


async def test_a_model_without_champion_has_nothing_in_production(
    gateway: Gateway, registry: Registry, tmp_path: Path
) -> None:
    registered(registry, tmp_path, "3.0.0", name="dealer")
    async with gateway.client() as client:
        response = await client.get("/models/dealer/production")
    assert response.status_code == 404
    assert "has no version in production" in response.json()["error"]["message"]


async def test_an_empty_registry_is_an_empty_list(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "nothing"))
    async with gateway.client() as client:
        assert (await client.get("/models")).json() == {"models": []}
    assert not (tmp_path / "nothing").exists()


async def test_a_broken_ledger_is_an_error_that_tells_nothing_internal(
    gateway: Gateway, registry: Registry
) -> None:
    ledger = registry.root / "ledger.jsonl"
    ledger.write_text(ledger.read_text(encoding="utf-8").replace("ana", "eva"), encoding="utf-8")
    async with gateway.client() as client:
        response = await client.get("/models")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the model registry cannot be read"


async def test_the_registry_asks_for_a_key_like_every_route(
    make_gateway: MakeGateway, registry: Registry
) -> None:
    gateway = make_gateway(**keys(secret="a"))
    async with gateway.client() as client:
        assert (await client.get("/models")).status_code == 401
    async with gateway.client(authorization="Bearer secret") as client:
        assert (await client.get("/models")).status_code == 200
