"""The system prompt is in KV memory before the first request: computed, or read from disk."""

import asyncio
import hashlib
import logging
from dataclasses import dataclass, replace

import pytest

from serve_app.engines.llama_cpp import AdapterFile, load
from serve_app.engines.llama_cpp import prefix_store as prefix_store_module
from serve_app.model.loader import load_model
from tests.e2e.engines.asking import ask, chat, model_config, until
from tests.e2e.engines.nano_adapter import write_nano_adapter

SYSTEM = "la respuesta del vendedor es que hay una toyota del ano pasado " * 8


@dataclass
class Profile:
    """An assistant with a system prompt."""

    system_prompt: str | None = SYSTEM
    chat_template: str | None = None
    answer_schema: str | None = None
    openings: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    return tmp_path


def files(home):
    return sorted((home / "cache" / "prefix").glob("*.kv"))


class Loaded:
    """An engine for the length of a `with` block; files are complete after it."""

    def __init__(self, path, *, profile=None, sha256="0" * 64, **options):
        options = {"n_threads": 1, "disk_prefix_cache": True} | options
        config = model_config(
            llama_cpp=options, model={"path": "nano.gguf", "sha256": sha256}, n_ctx=512
        )
        self.engine = load(config, path, profile=profile or Profile())

    async def __aenter__(self):
        return self.engine

    async def __aexit__(self, *_):
        await self.engine.close()


def question(text="klk", **options):
    return chat(text, system=SYSTEM, logprobs=0, max_tokens=6, **options)


async def test_system_prompt_is_shared_by_the_first_request_and_by_every_tenant(nano):
    async with Loaded(nano) as engine:
        n_pinned = int(engine.info.details["pinned_tokens"])
        assert n_pinned > 100
        for tenant in ("", "a", "b"):
            answer = await ask(engine, replace(question(), cache_salt=tenant))
            assert answer.usage.cached_tokens >= n_pinned
        assert engine.stats().kv_tokens_used == 0


async def test_next_load_reads_it_from_disk_and_answers_the_same(nano, home):
    async with Loaded(nano) as engine:
        first = await ask(engine, question())
        assert engine.info.details["pinned_from_disk"] == "0"
        n_pinned = int(engine.info.details["pinned_tokens"])
    (file,) = files(home)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    async with Loaded(nano) as engine:
        rows = engine.stats().step_rows_total
        second = await ask(engine, question())
        assert engine.info.details["pinned_from_disk"] == str(n_pinned)
        assert engine.stats().restored_tokens_total == n_pinned
        assert second.usage.cached_tokens == first.usage.cached_tokens >= n_pinned
        assert engine.stats().step_rows_total - rows < 60
    async with Loaded(nano, prefix_cache=False, disk_prefix_cache=False) as engine:
        alone = await ask(engine, question())
        assert engine.info.details["pinned_tokens"] == "0"
        assert alone.usage.cached_tokens == 0
    for a, b, c in zip(first.logprobs, second.logprobs, alone.logprobs, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=0.05)
        assert a.logprob == pytest.approx(c.logprob, abs=0.05)
    assert files(home) == [file]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:1000], id="cut off"),
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="one bit"),
        pytest.param(lambda content: content[:12] + b"\xff" * 4 + content[16:], id="long header"),
        pytest.param(lambda content: b"GGUF" + content[4:], id="another kind of file"),
        pytest.param(lambda content: content.replace(b'"f16"', b'"f17"', 1), id="another type"),
    ],
)
async def test_damaged_file_is_deleted_and_written_anew(nano, home, caplog, damage):
    async with Loaded(nano):
        pass
    (file,) = files(home)
    good = file.read_bytes()
    file.write_bytes(damage(good))
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano) as engine:
            assert engine.info.details["pinned_from_disk"] == "0"
            assert (await ask(engine, question())).usage.cached_tokens > 100
    assert "is ignored and deleted" in caplog.text
    assert file.read_bytes() == good
    async with Loaded(nano) as engine:
        assert engine.info.details["pinned_from_disk"] != "0"


async def test_what_llama_cpp_refuses_is_deleted(nano, home, caplog, monkeypatch):
    # A file that is whole and says what it should, but holds something else.
    monkeypatch.setattr(
        "serve_app.engines.llama_cpp.warm_start.read_kv", lambda *_: memoryview(b"nonsense" * 9)
    )
    async with Loaded(nano):
        pass
    monkeypatch.undo()
    monkeypatch.setenv("CARRIL_HOME", str(home))
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano) as engine:
            assert engine.info.details["pinned_from_disk"] == "0"
            assert (await ask(engine, question())).usage.cached_tokens > 100
    assert "llama.cpp refuses it" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"sha256": "1" * 64}, id="other weights"),
        pytest.param({"kv_type": "q8_0"}, id="other KV type"),
        pytest.param({"flash_attention": False}, id="other attention"),
        pytest.param({"profile": Profile(system_prompt=SYSTEM + "si")}, id="other prompt"),
    ],
)
async def test_kv_of_something_else_is_not_used(nano, home, other):
    async with Loaded(nano):
        pass
    async with Loaded(nano, **other) as engine:
        assert engine.info.details["pinned_from_disk"] == "0"
    assert len(files(home)) == 2


async def test_file_beyond_the_bound_is_not_written_and_old_ones_go_first(nano, home, caplog):
    async with Loaded(nano):
        pass
    (first,) = files(home)
    size = first.stat().st_size
    async with Loaded(nano, sha256="1" * 64, disk_prefix_cache_bytes=2 * size):
        pass
    assert len(files(home)) == 2
    async with Loaded(nano):  # makes the first one the last used
        pass
    async with Loaded(nano, sha256="2" * 64, disk_prefix_cache_bytes=2 * size + 100):
        pass
    assert len(files(home)) == 2
    assert first in files(home)
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano, sha256="3" * 64, disk_prefix_cache_bytes=1000):
            pass
    assert "exceeds disk_prefix_cache_bytes: 1000" in caplog.text
    assert first in files(home)


async def test_full_disk_costs_a_warning_only(nano, home, caplog, monkeypatch):
    real = prefix_store_module.os.fdopen

    class Full:
        """A file on a full disk."""

        def __init__(self, *args):
            self.file = real(*args)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_store_module.os, "fdopen", Full)
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano) as engine:
            assert (await ask(engine, question())).usage.cached_tokens > 100
    assert "No space left on device" in caplog.text
    assert list((home / "cache" / "prefix").iterdir()) == []


async def test_folder_that_cannot_be_made_costs_a_warning_only(nano, home, caplog):
    (home / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano) as engine:
            assert (await ask(engine, question())).usage.cached_tokens > 100
    assert "nothing written to" in caplog.text


async def test_small_models_use_no_disk_by_default(nano, home):
    async with Loaded(nano, disk_prefix_cache=None) as engine:
        assert engine.info.details["disk_prefix_cache"] == "false"
        assert int(engine.info.details["pinned_tokens"]) > 100
    assert not (home / "cache").exists()


async def test_prompts_of_requests_are_never_written(nano, home):
    async with Loaded(nano, profile=Profile(system_prompt=None)) as engine:
        for _ in range(5):
            await ask(engine, question())
    assert not (home / "cache").exists()


async def test_prompt_without_room_for_questions_is_not_pinned(nano, caplog):
    profile = Profile(system_prompt=" ".join(["yipeta"] * 400))
    with caplog.at_level(logging.WARNING):
        async with Loaded(nano, profile=profile) as engine:
            assert engine.info.details["pinned_tokens"] == "0"
    assert "is not pinned" in caplog.text


async def test_pinned_prompt_takes_no_context_from_requests_that_do_not_use_it(nano, monkeypatch):
    from serve_app.engines.llama_cpp import capacity

    monkeypatch.setattr(capacity, "_MAX_KV_BYTES", 1)
    async with Loaded(nano) as engine:
        n_pinned = int(engine.info.details["pinned_tokens"])
        assert 512 <= engine.stats().kv_tokens_capacity < 512 + 256
        # How long an answer gets is drawn, so until they have filled the memory.
        for first in range(0, 40, 4):
            requests = [
                chat(f"{i} hola", max_tokens=10**6, temperature=1, seed=i)
                for i in range(first, first + 4)
            ]
            for answer in await asyncio.gather(*(ask(engine, request) for request in requests)):
                total = answer.usage.prompt_tokens + answer.usage.completion_tokens
                assert answer.finish_reason == "stop" or total == 512
            if engine.stats().evicted_tokens_total:
                break
        assert (await ask(engine, question())).usage.cached_tokens >= n_pinned
        await until(lambda: engine.stats().kv_tokens_used == 0)
        assert engine.stats().evicted_tokens_total > 0


async def test_each_adapter_has_a_file_of_its_own(nano, home, tmp_path):
    adapters = {
        name: AdapterFile(write_nano_adapter(tmp_path / f"{name}.gguf", seed=seed), 1.0)
        for name, seed in (("a", 1), ("b", 2))
    }
    config = model_config(
        llama_cpp={"n_threads": 1, "disk_prefix_cache": True},
        adapters={
            name: {"path": str(file.path), "sha256": digit * 64}
            for digit, (name, file) in zip("12", adapters.items(), strict=True)
        },
    )
    answers = []
    for n_restored in (0, 3):
        engine = load(config, nano, profile=Profile(), adapters=adapters)
        try:
            n_pinned = int(engine.info.details["pinned_tokens"])
            assert engine.stats().restored_tokens_total == n_restored * n_pinned
            answers.append(
                [await ask(engine, replace(question(), adapter=name)) for name in (None, "a", "b")]
            )
        finally:
            await engine.close()
        assert len(files(home)) == 3
    assert len({answer.text for answer in answers[0]}) == 3
    for computed, restored in zip(*answers, strict=True):
        assert restored.usage.cached_tokens >= n_pinned
        assert computed.logprobs[0].logprob == pytest.approx(restored.logprobs[0].logprob, abs=0.05)


async def test_replica_that_loads_again_starts_warm(nano, tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "system_prompt.txt").write_text(SYSTEM, encoding="utf-8")
    sha256 = hashlib.sha256(nano.read_bytes()).hexdigest()
    config = model_config(
        model={"path": str(nano), "sha256": sha256},
        profile=str(profile),
        llama_cpp={"n_threads": 1, "disk_prefix_cache": True},
    )
    rows = []
    for restored in (False, True):
        model = await load_model(config, replica="r")
        try:
            stats = model.engine.stats()
            n_pinned = int(model.engine.info.details["pinned_tokens"])
            assert stats.restored_tokens_total == restored * n_pinned
            # the warm-up's own prompt begins with it
            assert stats.cached_tokens_total >= n_pinned > 100
            rows.append(stats.step_rows_total)
        finally:
            await model.engine.close()
    assert max(rows) < 60
