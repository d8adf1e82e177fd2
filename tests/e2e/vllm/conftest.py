"""The shipped model in vLLM and in llama.cpp, with the same float32 weights."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from serve_app.config import ModelConfig, parse_model_config
from serve_app.engines import llama_cpp, vllm
from serve_app.engines.protocol import Engine
from serve_app.model.folders import hash_folder
from serve_app.model.profile import Profile, load_profile
from tests.e2e.engines.asking import model_config, until
from tests.e2e.vllm.float_copy import write_float_copy
from training.export.huggingface import unpack_gguf

ROOT = Path(__file__).parents[3]
OKLA = ROOT / "models" / "okla" / "okla-v2.Q4_K_M.gguf"


def vllm_config(folder: Path, **changes: object) -> ModelConfig:
    """Return a configuration for a folder, in float32 on the CPU."""
    raw = {
        "engine": "vllm",
        "model": {"path": str(folder), "sha256": hash_folder(folder).sha256},
        "n_ctx": 1024,
        "n_slots": 8,
        "max_queue": 64,
        "vllm": {"dtype": "float32", "enforce_eager": True},
    }
    return parse_model_config(raw | changes)


@pytest.fixture(scope="session")
def profile() -> Profile:
    return load_profile(str(ROOT / "models/okla/profile"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as a Hugging Face folder."""
    target = tmp_path_factory.mktemp("hf") / "okla-v2"
    unpack_gguf(OKLA, target)
    return target


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(folder: Path, profile: Profile) -> AsyncIterator[vllm.VllmEngine]:
    engine = await asyncio.to_thread(vllm.load, vllm_config(folder), folder, profile=profile)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shared_engine: vllm.VllmEngine) -> AsyncIterator[vllm.VllmEngine]:
    """The shared engine; every test must leave it alive and idle."""
    yield shared_engine
    await until(lambda: shared_engine.stats().running + shared_engine.stats().waiting == 0)
    assert shared_engine.health().alive
    assert shared_engine.stats().kv_tokens_used == 0


@pytest.fixture(scope="session")
def gguf_engine(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> Iterator[Engine]:
    """llama.cpp with the same weights."""
    path = write_float_copy(OKLA, tmp_path_factory.mktemp("gguf") / "okla-v2.F32.gguf")
    engine = llama_cpp.load(model_config(n_ctx=1024), path, profile=profile)
    yield engine
    asyncio.run(engine.close())
