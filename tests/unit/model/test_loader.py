"""From configuration to loaded model; what fails or is given up leaves nothing behind."""

import asyncio
import hashlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.intent_prior.table import pack
from serve_app.engines import echo
from serve_app.engines.echo import EchoEngine
from serve_app.errors import ConfigError, EngineFailed, ModelFileError
from serve_app.model.folders import VerifiedFolder
from serve_app.model.loader import load_model
from serve_app.model.profile import load_profile
from tests.unit.experiments.intent_prior.made_by_hand import made_by_hand, with_prior
from tests.unit.gateway.builders import model_config


def gguf(path: Path, content: bytes = b"GGUF" + b"x" * 100) -> dict[str, Any]:
    path.write_bytes(content)
    return {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}


async def test_model_is_identified_by_its_file(tmp_path: Path) -> None:
    config = model_config(model=gguf(tmp_path / "a.gguf"))
    model = await load_model(config, replica="r1")
    assert config.model is not None
    assert model.identity.model_sha256 == config.model.sha256
    assert model.identity.replica == "r1"
    assert model.engine.health().alive


async def test_fingerprint_changes_with_whatever_can_change_an_answer(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    profile.mkdir()
    base = gguf(tmp_path / "a.gguf")
    prints = []
    for changes in (
        {},
        {"model": gguf(tmp_path / "b.gguf", b"GGUF" + b"y" * 100)},
        {"n_ctx": 4096},
        {"llama_cpp": {"kv_type": "q8_0"}},
    ):
        config = model_config(**{"model": base, "profile": str(profile)} | changes)
        prints.append((await load_model(config, replica="r")).identity.fingerprint)
    for name in ("system_prompt.txt", "answer.schema.json", "chat_template.jinja"):
        (profile / name).write_text("{}", encoding="utf-8")
        config = model_config(model=base, profile=str(profile))
        prints.append((await load_model(config, replica="r")).identity.fingerprint)
    assert len(set(prints)) == len(prints)


async def test_fingerprint_ignores_what_cannot_change_an_answer(tmp_path: Path) -> None:
    base = gguf(tmp_path / "a.gguf")
    prints = {
        (
            await load_model(model_config(model=base, **changes), replica=replica)
        ).identity.fingerprint
        for replica, changes in (("a", {}), ("b", {"n_slots": 3}), ("c", {"max_queue": 5}))
    }
    assert len(prints) == 1


async def test_echo_engines_that_answer_differently_have_other_fingerprints() -> None:
    prints = {
        (await load_model(model_config(echo={"tag": tag}), replica="r")).identity.fingerprint
        for tag in ("a", "b")
    }
    assert len(prints) == 2


async def test_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    file = gguf(tmp_path / "a.gguf") | {"sha256": "ab" * 32}
    with pytest.raises(ModelFileError, match="altered"):
        await load_model(model_config(model=file), replica="r")


async def test_missing_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory"):
        await load_model(model_config(profile=str(tmp_path / "gone")), replica="r")


def catch_engines(monkeypatch: pytest.MonkeyPatch) -> list[EchoEngine]:
    engines: list[EchoEngine] = []

    def load(config: Any) -> EchoEngine:
        engines.append(EchoEngine(config))
        return engines[-1]

    monkeypatch.setattr(echo, "load", load)
    return engines


async def test_engine_that_fails_its_warm_up_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = catch_engines(monkeypatch)
    with pytest.raises(EngineFailed):
        await load_model(model_config(echo={"fail_rate": 1}), replica="r")
    assert [engine.health().alive for engine in engines] == [False]


async def test_without_warm_up_a_model_takes_traffic_at_once() -> None:
    config = model_config(echo={"fail_rate": 1}, warmup=False)
    assert (await load_model(config, replica="r")).engine.health().alive


async def test_load_that_is_given_up_frees_what_the_thread_still_brings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading, go = threading.Event(), threading.Event()
    engines = catch_engines(monkeypatch)
    caught = echo.load

    def slow(config: Any) -> EchoEngine:
        loading.set()
        assert go.wait(10)
        return caught(config)

    monkeypatch.setattr(echo, "load", slow)
    task = asyncio.create_task(load_model(model_config(), replica="r"))
    await asyncio.to_thread(loading.wait, 10)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    deadline = time.monotonic() + 5
    while not engines or engines[0].health().alive:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert task.cancelled()


async def test_loading_does_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    caught = echo.load

    def slow(config: Any) -> EchoEngine:
        assert go.wait(10)
        return caught(config)

    monkeypatch.setattr(echo, "load", slow)
    task = asyncio.create_task(load_model(model_config(), replica="r"))
    for _ in range(10):
        await asyncio.sleep(0.001)
    go.set()
    await task


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("answer.schema.json", b"{", "not valid JSON"),
        ("system_prompt.txt", b"\xff\xfe", "cannot be read"),
        ("chat_template.jinja", b"x" * (2 << 20), "larger than"),
        ("profile.yaml", b"grounding: [", "is no YAML"),
        (
            "profile.yaml",
            b"grounding: rows",
            "grounding: .*'off', 'inventory' or 'always', not 'rows'",
        ),
        ("profile.yaml", b"grounded: true", "grounded: .*known: grounding"),
        ("profile.yaml", b"- inventory", "profile.yaml"),
        ("profile.yaml", b"intent_prior: p.npz", "no answer.schema.json"),
    ],
)
def test_bad_profile_file_is_refused_by_name(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=says) as caught:
        load_profile(str(tmp_path))
    assert name in str(caught.value)


def test_schema_of_a_profile_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    (tmp_path / "answer.schema.json").write_text('{"b": 1, "a": 2}', encoding="utf-8")
    assert load_profile(str(tmp_path)).answer_schema == '{"b":1,"a":2}'


def test_answers_are_grounded_where_the_profile_says_so(tmp_path: Path) -> None:
    assert load_profile(str(tmp_path)).grounding == "off"
    before = load_profile(str(tmp_path)).sha256
    (tmp_path / "profile.yaml").write_text("grounding: inventory\n", encoding="utf-8")
    profile = load_profile(str(tmp_path))
    assert profile.grounding == "inventory"
    assert profile.sha256 != before  # cached answers of before are not served again


def test_the_hash_of_a_profile_follows_its_prior_and_the_weight(tmp_path: Path) -> None:
    hashes = [
        load_profile(with_prior(tmp_path / "p", weight=weight, temperature=temperature)).sha256
        for weight, temperature in ((1, 0.5), (2, 0.5), (1, 0.7))
    ]
    again = load_profile(with_prior(tmp_path / "another")).sha256
    (tmp_path / "p" / "profile.yaml").unlink()
    without = load_profile(str(tmp_path / "p")).sha256
    assert again == hashes[0]
    assert len({*hashes, without}) == 4


def test_the_hash_of_a_profile_without_options_is_that_of_its_texts(tmp_path: Path) -> None:
    (tmp_path / "system_prompt.txt").write_text("Eres OKLA.", encoding="utf-8")
    texts = b'["Eres OKLA.",null,null]'
    assert load_profile(str(tmp_path)).sha256 == hashlib.sha256(texts).hexdigest()


@pytest.mark.parametrize("content", [None, b"no archive"], ids=["missing", "foreign"])
def test_a_prior_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, content: bytes | None
) -> None:
    folder = with_prior(tmp_path / "p")
    (tmp_path / "p" / "p.npz").unlink()
    if content is not None:
        (tmp_path / "p" / "p.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"profile\.yaml: .*p\.npz"):
        load_profile(folder)


def test_a_prior_of_other_intents_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = with_prior(tmp_path / "p")
    table = made_by_hand({"hola": "saludo", "fotos": "fotos_video", "x": "otra"})
    (tmp_path / "p" / "p.npz").write_bytes(pack(table))
    with pytest.raises(ConfigError, match=r"lacks \['despedida'\], and has \['otra'\]"):
        load_profile(folder)


async def test_an_engine_that_cannot_add_a_prior_says_so_when_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = "ab" * 32
    found = VerifiedFolder(tmp_path, sha256, 1, {})
    monkeypatch.setattr("serve_app.model.loader.verify_model_folder", lambda model: found)
    monkeypatch.setattr("serve_app.model.loader.check_folder_unchanged", lambda folder: None)
    monkeypatch.setattr(
        "serve_app.engines.vllm.load", lambda config, path, *, profile: EchoEngine(model_config())
    )
    model = {"path": str(tmp_path), "sha256": sha256}
    profile = with_prior(tmp_path / "p")
    config = model_config(engine="vllm", model=model, profile=profile)
    loaded = await load_model(config, replica="r")
    assert "has an intent prior, which the vllm engine does not add" in caplog.text
    assert loaded.identity.prior_sha256 is None
