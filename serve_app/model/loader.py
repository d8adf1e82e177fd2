"""From a configuration to a loaded, warmed-up model."""

import asyncio
import hashlib
import logging
import time

import orjson

from serve_app import __version__
from serve_app.config import ModelConfig, content_hash
from serve_app.engines import echo
from serve_app.engines.protocol import Engine, GenerationRequest, Message, SamplingParams
from serve_app.errors import ConfigError
from serve_app.model.calls import AdapterHashes, ModelIdentity
from serve_app.model.files import VerifiedFile, check_unchanged, verify_model_file
from serve_app.model.folders import (
    VerifiedFolder,
    check_folder_unchanged,
    verify_model_folder,
)
from serve_app.model.profile import Profile, load_profile
from serve_app.model.slot import LoadedModel

logger = logging.getLogger(__name__)

_WARMUP_TOKENS = 4

Verified = VerifiedFile | VerifiedFolder


async def load_model(
    config: ModelConfig, *, replica: str, beside: LoadedModel | None = None
) -> LoadedModel:
    """Verify the file, load the engine and answer one warm-up request.

    Nothing blocks the event loop: hashing and loading run in a worker thread.

    Args:
        config: What to load.
        replica: Id of this replica, for the identity.
        beside: What serves meanwhile. Weights with the same hash are shared with it, not loaded.

    Raises:
        ConfigError: If the file, the profile or the options cannot be used.
    """
    started = time.monotonic()
    profile, file, engine = await _in_thread(config, beside)
    try:
        identity = _identity(config, profile, file, engine, replica)
        if config.warmup:
            for adapter in (*([None] if config.serve_base else []), *config.adapters):
                await _warm_up(engine, profile, adapter)
    except BaseException:
        await engine.close()
        raise
    logger.info(
        "model loaded",
        extra={
            "model_sha256": identity.short,
            "engine": identity.engine,
            "duration_s": round(time.monotonic() - started, 3),
        },
    )
    return LoadedModel(
        engine, identity, profile, config.heartbeat_timeout_s, load_hash=config.load_hash
    )


async def _in_thread(
    config: ModelConfig, beside: LoadedModel | None
) -> tuple[Profile, Verified | None, Engine]:
    """Run `_load` in a thread; if the caller gives up, free what the thread still brings."""
    loading = asyncio.create_task(asyncio.to_thread(_load, config, beside))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_discard)
        raise


def _discard(loading: "asyncio.Task[tuple[Profile, Verified | None, Engine]]") -> None:
    if not loading.cancelled() and loading.exception() is None:
        closing = asyncio.ensure_future(loading.result()[2].close())
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)


_CLOSING: set["asyncio.Future[None]"] = set()
"""Keeps closing tasks from being collected before they ran."""


def _load(
    config: ModelConfig, beside: LoadedModel | None
) -> tuple[Profile, Verified | None, Engine]:
    profile = load_profile(config.profile)
    engine: Engine
    if config.engine == "vllm":
        from serve_app.engines import vllm

        if profile.grounding != "off":
            logger.warning(
                "the profile asks for grounding %r, which the vllm engine does not force: figures "
                "in its answers are the model's own",
                profile.grounding,
            )
        if profile.bias is not None:
            logger.warning(
                "the profile has an intent prior, which the vllm engine does not add: the intents "
                "of its answers are the model's own"
            )
        assert config.model is not None  # noqa: S101 (the configuration demands a folder)
        folder = verify_model_folder(config.model)
        engine = vllm.load(config, folder.path, profile=profile)
        try:
            check_folder_unchanged(folder)
        except ConfigError:
            asyncio.run(engine.close())  # this is a worker thread, without a loop
            raise
        return profile, folder, engine
    file = verify_model_file(config.model) if config.model else None
    if config.engine == "echo":
        engine = echo.load(config)
    else:
        assert file is not None  # noqa: S101 (the configuration demands a file)
        engine = _load_llama_cpp(config, file, profile, beside)
    return profile, file, engine


def _load_llama_cpp(
    config: ModelConfig, file: VerifiedFile, profile: Profile, beside: LoadedModel | None
) -> Engine:
    from serve_app.engines import llama_cpp

    sharer = beside.engine if beside and beside.identity.model_sha256 == file.sha256 else None
    verified = {name: verify_model_file(adapter) for name, adapter in config.adapters.items()}
    engine = llama_cpp.load(
        config,
        file.path,
        profile=profile,
        adapters={
            name: llama_cpp.AdapterFile(found.path, config.adapters[name].scale)
            for name, found in verified.items()
        },
        beside=sharer if isinstance(sharer, llama_cpp.LlamaCppEngine) else None,
    )
    try:
        for found in (file, *verified.values()):
            check_unchanged(found)
    except BaseException:
        asyncio.run(engine.close())  # this is a worker thread, without a loop
        raise
    return engine


def _adapter_hashes(
    config: ModelConfig, base_sha256: str, parts: tuple[object, ...]
) -> tuple[AdapterHashes, ...]:
    """Tell the adapters apart, from each other and from the base, wherever hashes are compared."""
    found = []
    for name, adapter in sorted(config.adapters.items()):
        own = (adapter.sha256, adapter.scale)
        found.append(
            AdapterHashes(
                name=name,
                model_sha256=hashlib.sha256(orjson.dumps((base_sha256, *own))).hexdigest(),
                fingerprint=hashlib.sha256(orjson.dumps((*parts, *own))).hexdigest(),
            )
        )
    return tuple(found)


def _identity(
    config: ModelConfig,
    profile: Profile,
    file: Verified | None,
    engine: Engine,
    replica: str,
) -> ModelIdentity:
    info = engine.info
    sha256 = file.sha256 if file else config.load_hash
    parts = (
        sha256,
        info.engine,
        info.version,
        info.template_sha256,
        profile.sha256,
        info.n_ctx,
        (
            config.vllm.dtype + (config.vllm.quantization or "")
            if config.engine == "vllm"
            else config.llama_cpp.kv_type
        ),
        __version__,
    )
    return ModelIdentity(
        replica=replica,
        engine=info.engine,
        engine_version=info.version,
        model_name=info.model_name,
        model_sha256=sha256,
        fingerprint=hashlib.sha256(orjson.dumps(parts)).hexdigest(),
        has_answer_schema=profile.answer_schema is not None,
        config_hash=content_hash(config)[:12],
        adapters=_adapter_hashes(config, sha256, parts),
        serves_base=config.serve_base,
        prior_sha256=(
            profile.bias.sha256 if profile.bias and config.engine == "llama_cpp" else None
        ),
    )


async def _warm_up(engine: Engine, profile: Profile, adapter: str | None) -> None:
    messages = [Message(role="user", content="hola")]
    if profile.system_prompt:
        messages.insert(0, Message(role="system", content=profile.system_prompt))
    request = GenerationRequest(
        request_id="warm-up",
        messages=tuple(messages),
        sampling=SamplingParams(max_tokens=_WARMUP_TOKENS, temperature=0),
        json_schema=profile.answer_schema,
        adapter=adapter,
    )
    async for _ in engine.generate(request):
        pass
