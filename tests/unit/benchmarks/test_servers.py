from pathlib import Path

import pytest

from serve_app.config import parse_gateway_config, parse_model_config
from tests.benchmarks import options, servers
from tests.benchmarks.servers import Variant


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    return path


def test_what_carril_is_started_with_is_a_valid_configuration(model: Path, tmp_path: Path) -> None:
    variants = [
        Variant(name="a", path=model, n_ctx=1024, n_slots=16, options=options.comparable()),
        Variant(name="b", path=model, n_ctx=512, n_slots=1, profile=tmp_path),
    ]
    apps = {
        app["name"]: app["deployments"][0]["user_config"]
        for app in servers.carril_config(variants)["applications"]
    }
    gateway = parse_gateway_config(apps.pop("gateway"))
    assert not gateway.cache.enabled  # answers from the cache would measure nothing
    assert {variant.app for variant in gateway.variants.values()} == apps.keys()
    first, second = (parse_model_config(config) for config in apps.values())
    assert (first.n_slots, second.profile) == (16, str(tmp_path))
    assert first.model is not None
    assert first.model.sha256 == servers.sha256(model)


def test_a_server_that_ends_at_once_is_an_error_that_shows_its_log(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho cannot load; exit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr(servers.peers, "programs", lambda: program.parent)
    with (
        pytest.raises(servers.PeerError, match=r"(?s)did not start.*cannot load"),
        servers.llama_server(model, [], name="x"),
    ):
        pass
    assert (tmp_path / "bench/logs/x/llama-server.log").read_text().startswith(str(program))


def test_peer_has_as_large_batches_as_its_users_give_it() -> None:
    words = servers.llama_server_arguments(n_slots=8, n_ctx=9216, n_threads=2)
    assert " ".join(words) == "-c 9216 -np 8 -t 2 -tb 2 -b 2048 -ub 512 -fa on -kvu"
