"""Two LoRA adapters over one base in one engine: each answers as an engine of its own would."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_app.engines.llama_cpp import AdapterFile, LlamaCppEngine, load
from serve_app.engines.llama_cpp.stepper import Stepper
from serve_app.errors import ModelFileError, ModelNotReady
from serve_app.model.loader import load_model
from tests.e2e.engines.asking import Answer, ask, chat, model_config, until
from tests.e2e.engines.nano_adapter import write_nano_adapter
from tests.e2e.engines.nano_gguf import write_nano_gguf

PROMPTS = [f"hola {i}, busco una yipeta" for i in range(6)]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: AdapterFile(write_nano_adapter(folder / f"{name}.gguf", seed=seed), 1.0)
        for name, seed in (("a", 1), ("b", 2))
    }


def config_of(adapters, **changes):
    entries = {
        name: {
            "path": str(file.path),
            "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
            "scale": file.scale,
        }
        for name, file in adapters.items()
    }
    return model_config(adapters=entries, **changes)


def engine_of(nano, adapters, **changes) -> LlamaCppEngine:
    return load(config_of(adapters, **changes), nano, adapters=adapters)


def assert_same(one: Answer, other: Answer) -> None:
    assert one.logprobs
    for a, b in zip(one.logprobs, other.logprobs, strict=False):
        if a.token_bytes != b.token_bytes:
            assert a.top[0].logprob - a.top[1].logprob < 0.05  # a near tie
            return
        assert a.logprob == pytest.approx(b.logprob, abs=0.05)


async def answers_alone(nano, adapters, name):
    """Ask an engine that has one adapter and no base, or only the base."""
    only = {name: adapters[name]} if name else {}
    engine = engine_of(nano, only, serve_base=name is None)
    try:
        return [await ask(engine, chat(p, logprobs=2, adapter=name)) for p in PROMPTS]
    finally:
        await engine.close()


async def test_each_adapter_answers_under_load_as_it_would_alone(nano, adapters):
    alone = {name: await answers_alone(nano, adapters, name) for name in (None, "a", "b")}
    assert len({tuple(a.text for a in answers) for answers in alone.values()}) == 3
    engine = engine_of(nano, adapters)
    try:
        for _ in range(2):  # once cold, once with prefixes of the other adapters at hand
            names = [name for _ in PROMPTS for name in (None, "a", "b")]
            texts = [prompt for prompt in PROMPTS for _ in range(3)]
            mixed = await asyncio.gather(
                *(
                    ask(engine, chat(text, logprobs=2, adapter=name))
                    for text, name in zip(texts, names, strict=True)
                )
            )
            for i, (name, answer) in enumerate(zip(names, mixed, strict=True)):
                assert_same(alone[name][i // 3], answer)
        stats = engine.stats()
        assert stats.kv_tokens_used == stats.running == stats.waiting == 0
        assert stats.completion_tokens_total == sum(
            2 * answer.usage.completion_tokens for answer in mixed
        )
        assert engine.info.details["adapters"] == "a, b"
    finally:
        await engine.close()


async def test_adapters_share_no_prefixes(nano, adapters):
    engine = engine_of(nano, adapters)
    try:
        request = chat("busco una yipeta pa la familia que gaste poco")
        for name in (None, "a", "b"):
            first = await ask(engine, chat(request.messages[0].content, adapter=name))
            assert first.usage.cached_tokens == 0
        again = await ask(engine, chat(request.messages[0].content, adapter="a"))
        assert again.usage.cached_tokens > 0
    finally:
        await engine.close()


async def test_users_of_one_adapter_are_not_slowed_by_batch_work_of_another(nano, adapters):
    engine = engine_of(nano, adapters, n_slots=2)
    for stepper in engine._lanes:
        slow_down(stepper, 0.005)
    work = [
        asyncio.create_task(
            ask(engine, chat(f"lote {i}", max_tokens=60, priority="batch", adapter="a"))
        )
        for i in range(4)
    ]
    try:
        await until(lambda: engine.stats().running == 2)
        lane = engine._lanes.steppers
        before = lane["a"].counters.steps, lane["b"].counters.steps
        await ask(engine, chat("hola", max_tokens=20, adapter="b"))
        batch = lane["a"].counters.steps - before[0]
        user = lane["b"].counters.steps - before[1]
        assert user > 5
        assert 1 <= batch <= user / 2
        await asyncio.gather(*work)
    finally:
        await engine.close()


def slow_down(stepper, step_s):
    real = stepper.context.decode

    def decode(parts):
        time.sleep(step_s)
        return real(parts)

    stepper.context.decode = decode


async def test_adapter_that_is_not_loaded_is_refused_by_name(nano, adapters):
    engine = engine_of(nano, adapters, serve_base=False)
    try:
        with pytest.raises(ModelNotReady, match=r"adapter 'c' is not loaded; loaded: \['a', 'b'\]"):
            await ask(engine, chat("hola", adapter="c"))
        with pytest.raises(ModelNotReady, match="adapter None is not loaded"):
            await ask(engine, chat("hola"))
        assert (await ask(engine, chat("hola", adapter="a"))).finish_reason
    finally:
        await engine.close()


def test_file_that_is_no_adapter_of_this_base_is_refused(nano, adapters, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(adapters["a"].path.read_bytes()[:4000])
    for path in (nano, damaged):
        with pytest.raises(ModelFileError, match="adapter 'x'"):
            load(model_config(), nano, adapters={"x": AdapterFile(path, 1.0)})


async def test_identity_tells_adapters_and_scales_apart(nano, adapters):
    base = {"model": {"path": str(nano), "sha256": sha256_of(nano)}}
    model = await load_model(config_of(adapters, **base), replica="r")
    stronger = {name: file._replace(scale=2.0) for name, file in adapters.items()}
    other = await load_model(config_of(stronger, **base), replica="r")
    try:
        identities = [
            loaded.identity.of(name) for loaded in (model, other) for name in (None, "a", "b")
        ]
        # The base is the same in both.
        assert len({identity.model_sha256 for identity in identities}) == 5
        assert len({identity.fingerprint for identity in identities}) == 5
        assert identities[0].model_sha256 == base["model"]["sha256"]
        assert model.identity.of("c") is None
    finally:
        await model.engine.close()
        await other.engine.close()


async def test_exchanged_adapter_shares_the_weights_with_the_model_that_it_replaces(
    nano, adapters, tmp_path
):
    base = {"model": {"path": str(nano), "sha256": sha256_of(nano)}}
    other = AdapterFile(write_nano_adapter(tmp_path / "c.gguf", seed=3), 1.0)
    alone = {
        name: await answers_alone(nano, {name: file}, name)
        for name, file in (("a", adapters["a"]), ("b", other))
    }
    old = await load_model(config_of(adapters, **base), replica="r")
    new = await load_model(
        config_of({"a": adapters["a"], "b": other}, **base), replica="r", beside=old
    )
    weights = new.engine.model
    assert weights is old.engine.model

    async def mixed(engine):
        pairs = [(name, prompt) for prompt in PROMPTS for name in ("a", "b")]
        requests = (chat(prompt, logprobs=2, adapter=name) for name, prompt in pairs)
        return await asyncio.gather(*(ask(engine, request) for request in requests))

    before, after = await asyncio.gather(mixed(old.engine), mixed(new.engine))
    await old.engine.close()
    assert weights.handle, "the new engine still uses the weights"
    for i, name in enumerate(("a", "b")):
        for one, answer in zip(alone[name], after[i::2], strict=True):
            assert_same(one, answer)
    for answer, again in zip(after, await mixed(new.engine), strict=True):
        assert_same(answer, again)
    assert [a.text for a in before[1::2]] != [a.text for a in after[1::2]]
    broken = {"x": AdapterFile(nano, 1.0)}
    with pytest.raises(ModelFileError, match="adapter 'x'"):
        load(model_config(), nano, adapters=broken, beside=new.engine)
    assert (await ask(new.engine, chat("hola", adapter="b"))).finish_reason
    await new.engine.close()
    assert weights.handle is None
    late = load(model_config(), nano, beside=new.engine)
    assert late.model is not weights, "what is freed cannot be shared"
    await late.close()


async def test_altered_adapter_is_not_opened(nano, adapters):
    config = config_of(adapters, model={"path": str(nano), "sha256": sha256_of(nano)})
    entries = config.model_dump()
    entries["adapters"]["b"]["sha256"] = "0" * 64
    with pytest.raises(ModelFileError, match="was altered or is another one; it was not opened"):
        await load_model(type(config).model_validate(entries), replica="r")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_MEASURE = """
import asyncio, json, sys
from pathlib import Path
from serve_app.config import parse_model_config
from serve_app.engines.llama_cpp import AdapterFile, load
from tests.e2e.engines.asking import ask, chat
raw, files = json.loads(sys.argv[1]), json.loads(sys.argv[2])
adapters = {name: AdapterFile(Path(path), 1.0) for name, path in files.items()}
engine = load(parse_model_config(raw), Path(raw["model"]["path"]), adapters=adapters)
async def run():
    for name in adapters:
        await ask(engine, chat("hola busco una yipeta", adapter=name))
asyncio.run(run())
text = Path("/proc/self/smaps_rollup").read_text()
print(next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) << 10)
asyncio.run(engine.close())
"""


def test_second_adapter_costs_its_size_and_its_kv_but_not_the_weights(adapters, tmp_path):
    """PSS of processes that serve one adapter, two, and one of each in a process of its own."""
    big = write_nano_gguf(tmp_path / "big.gguf", n_unused_tokens=60_000)
    weights = big.stat().st_size
    assert weights > 100 << 20

    def pss(*names: str) -> int:
        files = {name: adapters[name] for name in names}
        config = config_of(files, serve_base=False, n_slots=2)
        raw = config.model_dump(mode="json") | {"model": {"path": str(big), "sha256": "0" * 64}}
        paths = {name: str(file.path) for name, file in files.items()}
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, json.dumps(raw), json.dumps(paths)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.split()[-1])

    one, two = pss("a"), pss("a", "b")
    added = two - one
    sys.stderr.write(f"weights {weights >> 20} MiB, one {one >> 20}, second +{added / 2**20:.1f}\n")
    assert added < weights / 3
    assert one > weights / 2


async def test_batches_are_calibrated_once_for_all_adapters(nano, adapters, monkeypatch):
    calls = []
    calibrate = Stepper.calibrate
    monkeypatch.setattr(Stepper, "calibrate", lambda self: (calls.append(self), calibrate(self)))
    engine = engine_of(nano, adapters)
    try:
        assert len(calls) == 1
        base, *others = engine._lanes
        assert len(others) == 2
        assert all(lane.costs.decode_s(4) == base.costs.decode_s(4) for lane in others)
    finally:
        await engine.close()
