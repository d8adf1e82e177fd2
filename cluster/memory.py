"""How much memory a config needs, against what the machine has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.autoscaling import most_replicas
from cluster.gguf_header import HeaderError, read_shape
from cluster.validate import ServeConfig
from serve_app.config import ModelConfig
from serve_app.engines.vllm.binding import kv_bytes as vllm_kv_bytes
from serve_app.engines.vllm.folder import read_folder
from serve_app.errors import ModelFileError

BASE_BYTES = 1_700 << 20
"""Ray's head, Serve's controller and proxy, two gateway replicas: measured at rest."""
_REPLICA_BYTES = 250 << 20
"""A model replica's interpreter, libraries and scratch buffers, without weights and cache."""
_VLLM_BYTES = 1_300 << 20
"""What vLLM adds to a replica: torch three times, in it and in two processes of its own."""
_MAX_KV_BYTES = 2 << 30
"""Bound of one engine's attention cache, as in `serve_app.engines.llama_cpp.capacity`."""
_BYTES_PER_VALUE = {"f16": 2.0, "q8_0": 34 / 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """An estimate; pages of a model file that two replicas map are counted once."""

    steady_bytes: int
    swap_bytes: int
    """On top while the largest model is exchanged, when old and new are both loaded."""

    @property
    def peak_bytes(self) -> int:
        """Most that is needed at once."""
        return self.steady_bytes + self.swap_bytes


def memory_need(config: ServeConfig, model_bytes: Mapping[str, int]) -> MemoryNeed:
    """Estimate the memory of a config.

    Args:
        config: The config.
        model_bytes: Size of each application's model file.
    """
    weights: dict[str, int] = {}
    replicas = 0
    largest = 0
    for app, model in config.models.items():
        size = model_bytes.get(app, 0)
        cache = kv_bytes(model)
        count = _replica_count(config.raw, app)
        if model.engine == "vllm":
            # Weights are read, not mapped: each replica has its own; a GPU has them in its memory.
            if _on_gpu(config.raw, app):
                size = cache = 0
            cache += _VLLM_BYTES
            replicas += count * size
        elif model.model is not None:
            weights[model.model.sha256] = size
        for adapter in model.adapters.values():
            weights[adapter.sha256] = _file_bytes(adapter.path)
        replicas += count * (_REPLICA_BYTES + cache)
        largest = max(largest, size + cache)
    return MemoryNeed(
        steady_bytes=BASE_BYTES + sum(weights.values()) + replicas, swap_bytes=largest
    )


def kv_bytes(model: ModelConfig) -> int:
    """Return the attention cache of one engine, all adapters' together; 0 where a file is mute."""
    if model.engine == "echo" or model.model is None:
        return 0
    if model.engine == "vllm":
        try:
            folder = read_folder(Path(model.model.path))
        except ModelFileError:
            return 0
        return vllm_kv_bytes(model, folder.kv_token_bytes, on_cpu=True) or 0
    try:
        shape = read_shape(Path(model.model.path))
    except HeaderError:
        return 0
    token = shape.kv_token_bytes(_BYTES_PER_VALUE[model.llama_cpp.kv_type])
    wanted = model.n_ctx * (model.n_slots + 1) * token
    lane = max(model.n_ctx * token, min(wanted, _MAX_KV_BYTES // model.n_lanes))
    return model.n_lanes * lane


def gib(size_bytes: int) -> str:
    """Return a size as a person reads it."""
    if size_bytes < 100 << 20:
        return f"{size_bytes / 2**20:.1f} MiB"
    return f"{size_bytes / 2**30:.1f} GiB"


def _file_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _replica_count(raw: Mapping[str, Any], app: str) -> int:
    return next((most_replicas(item) for item in raw["applications"] if item["name"] == app), 1)


def _on_gpu(raw: Mapping[str, Any], app: str) -> bool:
    for item in raw["applications"]:
        if item["name"] == app:
            options = [d.get("ray_actor_options") or {} for d in item.get("deployments") or []]
            return any(option.get("num_gpus") for option in options)
    return False
