"""`run.lock.json`: everything a run stands on, written before its first step."""

import hashlib
import importlib.metadata
import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from experiments.jobs.code_state import ROOT, CodeState
from training.config import TrainConfig
from training.data.dataset import DatasetManifest

FILE = "run.lock.json"
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "bitsandbytes",
    "gguf",
    "llama-cpp-python",
    "numpy",
    "ray",
    "mlflow-skinny",
    "mlflow",
)


def run_lock(
    config: TrainConfig, config_path: Path, dataset: DatasetManifest, code: CodeState
) -> dict[str, Any]:
    """Return the lock of a run.

    Args:
        config: The configuration.
        config_path: Where it was read.
        dataset: The data it will learn from.
        code: The code that runs.
    """
    return {
        **surroundings(code),
        "config": {
            "path": str(config_path),
            "sha256": config.sha256(),
            "content": config.model_dump(mode="json"),
        },
        "dataset": {
            "sha256": dataset.sha256,
            "splits": {name: info.sha256 for name, info in dataset.splits.items()},
        },
        "seeds": {"train": config.seed, "data": config.data.seed},
        "threads": config.threads,
    }


def surroundings(code: CodeState) -> dict[str, Any]:
    """Return what the lock of any run has: time, code, packages, machine.

    Args:
        code: The code that runs.
    """
    return {
        "schema_version": 1,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code.model_dump(mode="json"),
        "locks": _lock_hashes(),
        "hardware": _hardware(),
        "versions": _versions(),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what changed between two locks of a run that is resumed, as readable lines.

    Code, packages or machine may have changed; then the weights can differ from those of an
    undisturbed run, and whoever resumes has to know.
    """
    found = []
    for key in ("code", "locks", "dataset", "hardware", "versions"):
        old, new = before.get(key) or {}, now[key]
        changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        found += [f"{key}.{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in changed]
    return found


def to_text(lock: dict[str, Any]) -> str:
    """Return a lock as a file's text."""
    return json.dumps(lock, indent=2, ensure_ascii=False) + "\n"


def _lock_hashes() -> dict[str, str]:
    files = sorted((ROOT / "requirements").glob("*.lock"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _hardware() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "logical_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
    }


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
