"""API keys over real HTTP: who may call, and what tenants do not share."""

import hashlib

import httpx
import openai
import pytest

from tests.integration.conftest import CHAT_PATH, Cluster, chat

KEYS = {
    "keys": [
        {
            "name": name,
            "tenant": tenant,
            "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest(),
        }
        for name, tenant in (("ana", "acme"), ("beto", "other"))
    ]
}


def test_keys_tenants_and_revocation(cluster: Cluster) -> None:
    cluster.deploy(gateway={"auth": KEYS})
    url = cluster.url + CHAT_PATH
    for header in ({}, {"authorization": "Bearer sk-nadie"}, {"authorization": "Basic x"}):
        response = httpx.post(url, json=chat(), headers=header)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    with (
        openai.OpenAI(api_key="wrong", base_url=f"{cluster.url}/v1", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert httpx.get(cluster.url + path).status_code == 200

    def cache_of(name: str, question: str) -> str:
        key = {"authorization": f"Bearer sk-{name}", "x-session-id": "s1"}
        response = httpx.post(url, json=chat(question, model="okla-chat@stable"), headers=key)
        assert response.status_code == 200
        return response.headers["x-carril-cache"]

    assert cache_of("ana", "de quién es esto") == "miss"
    assert cache_of("beto", "de quién es esto") == "miss"
    for name in ("ana", "beto"):
        httpx.post(
            url,
            json=chat("hola"),
            headers={"authorization": f"Bearer sk-{name}", "x-session-id": "una-sesion"},
        )
    units = cluster.query("SELECT unit FROM exposures WHERE unit LIKE '%una-sesion'")
    assert sorted(units) == [("acme/una-sesion",), ("other/una-sesion",)]

    cluster.deploy(gateway={"auth": {"keys": KEYS["keys"][1:]}})
    revoked = httpx.post(url, json=chat(), headers={"authorization": "Bearer sk-ana"})
    assert revoked.status_code == 401
