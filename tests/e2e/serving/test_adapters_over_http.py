"""Two adapters over one base as two variants: told apart everywhere, exchanged while users ask."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.engines.nano_adapter import write_nano_adapter
from tests.e2e.engines.nano_gguf import write_nano_gguf
from tests.e2e.serving.conftest import Server, running

BODY = {
    "messages": [{"role": "user", "content": "klk, busco una yipeta"}],
    "max_tokens": 12,
    "temperature": 0,
}


def entry(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def config_of(folder: Path) -> dict[str, Any]:
    variants = {
        "base": {"app": "nano"},
        "a": {"app": "nano", "adapter": "a"},
        "b": {"app": "nano", "adapter": "b"},
    }
    gateway = {
        "models": {
            **{f"m-{name}": {"variant": name} for name in ("base", "a", "b")},
            "split": {"experiment": "a-b"},
        },
        "variants": variants,
        "experiments": {"a-b": {"salt": "s", "control": "a", "allocation": {"a": 50, "b": 50}}},
    }
    model = {
        "engine": "llama_cpp",
        "model": entry(write_nano_gguf(folder / "nano.gguf")),
        "adapters": {
            name: entry(write_nano_adapter(folder / f"{name}.gguf", seed=seed))
            for name, seed in (("a", 1), ("b", 2))
        },
        "n_ctx": 256,
        "n_slots": 2,
        "llama_cpp": {"n_threads": 1},
    }

    def app(name: str, prefix: str | None, builder: str, deployment: str, config: Any) -> Any:
        return {
            "name": name,
            "route_prefix": prefix,
            "import_path": f"serve_app.app:{builder}",
            "deployments": [{"name": deployment, "user_config": config}],
        }

    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "proxy_location": "HeadOnly",
        "applications": [
            app("gateway", "/", "build_gateway", "gateway", gateway),
            app("nano", None, "build_model", "model", model),
        ],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("adapters")
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config_of(folder), sort_keys=False), encoding="utf-8")
    with running(path) as started:
        yield started


def ask(server: Server, model: str, **headers: str) -> httpx.Response:
    response = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=BODY | {"model": model},
        headers=headers,
        timeout=60,
        trust_env=False,
    )
    assert response.status_code == 200, response.text
    return response


def text_of(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def test_variants_of_one_application_are_told_apart_everywhere(server: Server) -> None:
    first = {name: ask(server, f"m-{name}") for name in ("base", "a", "b")}
    assert len({text_of(answer) for answer in first.values()}) == 3
    hashes = {name: answer.headers["x-carril-model"] for name, answer in first.items()}
    assert len(set(hashes.values())) == 3
    assert hashes["base"] == server.user_config("nano")["model"]["sha256"][:12]
    for name, answer in first.items():
        again = ask(server, f"m-{name}")
        assert again.headers["x-carril-cache"] in ("hit", "join")
        assert text_of(again) == text_of(answer)

    for session in range(12):
        answer = ask(server, "split", **{"x-session-id": f"s{session}"})
        variant = answer.headers["x-carril-variant"]
        assert variant in ("a", "b")
        assert (answer.headers["x-carril-model"], text_of(answer)) == (
            hashes[variant],
            text_of(first[variant]),
        )

    ready = httpx.get(f"{server.url}/readyz", timeout=30, trust_env=False).json()
    assert ready["status"] == "ready"
    assert {
        name: state["replicas"][0]["model_sha256"][:12] for name, state in ready["variants"].items()
    } == hashes
    page = httpx.get(f"{server.url}/metrics", timeout=30, trust_env=False).text
    loaded = [line for line in page.splitlines() if line.startswith("okla_llm_model_loaded{")]
    assert len(loaded) == 1
    assert 'variant="base+a+b"' in loaded[0]


def test_unknown_adapter_is_refused_before_anything_changes(server: Server) -> None:
    gateway = server.user_config("gateway")
    gateway["variants"]["b"]["adapter"] = "c"
    try:
        refused = server.carril("deploy", str(server.write()))
    finally:
        gateway["variants"]["b"]["adapter"] = "b"
    assert refused.returncode != 0
    assert "variant 'b': unknown adapter 'c'; 'nano' has ['a', 'b']" in refused.stderr


def test_adapter_is_exchanged_while_users_ask(server: Server, tmp_path: Path) -> None:
    before = {name: ask(server, f"m-{name}").headers["x-carril-model"] for name in ("a", "b")}
    failures: list[str] = []
    stop = threading.Event()

    def users() -> None:
        while not stop.is_set():
            for name in ("a", "b"):
                try:
                    ask(server, f"m-{name}", **{"cache-control": "no-cache"})
                except (AssertionError, httpx.HTTPError) as error:
                    failures.append(repr(error))

    thread = threading.Thread(target=users)
    thread.start()
    try:
        server.user_config("nano")["adapters"]["b"] = entry(
            write_nano_adapter(tmp_path / "b2.gguf", seed=3)
        )
        deployed = server.carril("deploy", str(server.write()))
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    finally:
        stop.set()
        thread.join()
    assert failures == []
    after = {
        name: ask(server, f"m-{name}", **{"cache-control": "no-cache"}).headers["x-carril-model"]
        for name in ("a", "b")
    }
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]
