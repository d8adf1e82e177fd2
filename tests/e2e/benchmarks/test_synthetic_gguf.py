"""A synthetic model behaves like a model: it loads, its logits are finite and tell tokens apart."""

import asyncio
import hashlib
import math
from pathlib import Path

import gguf
import pytest

from serve_app.config import ModelConfig, ModelFileConfig
from serve_app.engines.llama_cpp import load
from serve_app.engines.protocol import GenerationRequest, Message, SamplingParams, TokenLogprob
from tests.benchmarks.gguf_metadata import read_metadata
from tests.benchmarks.synthetic_gguf import SHAPES, gets_more_bits, parameters, write
from tests.e2e.engines.nano_gguf import write_nano_gguf


@pytest.fixture(scope="module")
def vocabulary_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_gguf(tmp_path_factory.mktemp("vocabulary") / "nano.gguf", template=None)


@pytest.fixture(scope="module")
def model(vocabulary_path: Path) -> Path:
    path = vocabulary_path.with_name("random.gguf")
    return write(path, SHAPES["nano"], read_metadata(vocabulary_path), seed=3)


def test_answers_are_finite_and_vary(model: Path) -> None:
    first, second = (_answer(model, text) for text in ("busco una yipeta", "klk"))
    logprobs = [entry.logprob for entry in (*first, *second)]
    assert len(logprobs) == 48
    assert all(value is not None and math.isfinite(value) for value in logprobs)
    assert len({entry.token_bytes for entry in (*first, *second)}) > 3  # no constant
    assert [e.token_bytes for e in first] != [e.token_bytes for e in second]  # the prompt matters


def test_same_seed_same_file(model: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    vocabulary = read_metadata(vocabulary_path)
    hashes = {
        seed: _sha256(write(tmp_path / f"{seed}.gguf", SHAPES["nano"], vocabulary, seed=seed))
        for seed in (3, 4)
    }
    assert hashes[3] == _sha256(model) != hashes[4]


def test_mix_is_that_of_q4_k_m(model: Path) -> None:
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(model).tensors}
    assert kinds["token_embd.weight"] == "Q6_K"  # tied: it is the output matrix, too
    assert kinds["blk.0.ffn_down.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_down.weight"] == kinds["blk.1.attn_v.weight"] == "Q6_K"
    assert kinds["blk.1.attn_q.weight"] == "Q4_K"
    # What llama.cpp's own quantiser does with 16 layers.
    assert [i for i in range(16) if gets_more_bits(i, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.236), ("8b", 8.030)])
def test_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert parameters(SHAPES[name], 128_256) == pytest.approx(billions * 1e9, rel=1e-3)


def _answer(model: Path, text: str) -> list[TokenLogprob]:
    config = ModelConfig(
        engine="llama_cpp",
        model=ModelFileConfig(path=str(model), sha256=_sha256(model)),
        n_ctx=256,
        n_slots=1,
    )
    engine = load(config, model)
    request = GenerationRequest(
        request_id="r",
        messages=(Message(role="user", content=text),),
        sampling=SamplingParams(max_tokens=24, temperature=0, logprobs=0),
    )

    async def collect() -> list[TokenLogprob]:
        try:
            return [e async for chunk in engine.generate(request) for e in chunk.logprobs]
        finally:
            await engine.close()

    return asyncio.run(collect())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
