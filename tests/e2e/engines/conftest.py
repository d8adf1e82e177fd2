"""One tiny engine for all tests here."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serve_app.engines.llama_cpp import LlamaCppEngine, load
from tests.e2e.engines.asking import model_config, until
from tests.e2e.engines.nano_gguf import write_nano_gguf


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the tiny model."""
    return write_nano_gguf(tmp_path_factory.mktemp("nano") / "nano.gguf")


@pytest.fixture(scope="session")
def shared_engine(nano: Path) -> Iterator[LlamaCppEngine]:
    """An engine that lives as long as the tests."""
    engine = load(model_config(), nano)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="session")
def exact_engine(nano: Path) -> Iterator[LlamaCppEngine]:
    """An engine that computes a request the same way each time: no prefix is ever reused.

    With reuse, and with company in the batch, other kernels round differently by about 0.005 in a
    log-probability, which now and then draws another token.
    """
    engine = load(model_config(llama_cpp={"n_threads": 1, "prefix_cache": False}), nano)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
async def engine(shared_engine: LlamaCppEngine) -> AsyncIterator[LlamaCppEngine]:
    """The shared engine; every test must leave it alive and idle."""
    yield shared_engine
    await until(lambda: shared_engine.stats().running == shared_engine.stats().waiting == 0)
    assert shared_engine.health().alive
    assert shared_engine.stats().kv_tokens_used == 0
