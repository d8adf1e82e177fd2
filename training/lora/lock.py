"""`run.lock.json` of a LoRA training: base, data, configuration, placement, code, machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.jobs.code_state import CodeState
from training.errors import TrainingError
from training.jobs.run_lock import differences, surroundings
from training.lora.base import Base
from training.lora.config import LoraConfig
from training.lora.dataset import Dataset
from training.lora.placement import Placement


def lora_lock(
    config: LoraConfig,
    base: Base,
    base_hash: str,
    dataset: Dataset,
    where: Placement,
    code: CodeState,
) -> dict[str, Any]:
    """Return the lock of a run, to be written before its first step."""
    return {
        **surroundings(code),
        "kind": config.kind,
        "config": {"sha256": config.sha256(), "content": config.model_dump(mode="json")},
        "base": {
            "folder": str(base.folder),
            "sha256": base_hash,
            "n_parameters": base.n_parameters,
            "dtype": base.dtype,
        },
        "dataset": {"sha256": dataset.sha256, "splits": dataset.hashes},
        "seeds": {"train": config.seed},
        "threads": config.threads,
        "placement": {
            "device": where.device,
            "chip": where.chip,
            "precision": where.precision,
            "quant_backend": where.quant_backend,
            "quant_reason": where.quant_reason,
            "peak_tflops": where.peak_tflops,
        },
    }


def identity(config: LoraConfig, base_hash: str, dataset: Dataset, where: Placement) -> str:
    """Return a hash over what decides the weights; a checkpoint belongs to one of these."""
    parts = [
        config.sha256(),
        base_hash,
        dataset.sha256,
        where.device,
        where.precision,
        where.quant_backend,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def with_history(lock: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the lock of a resumed run with those before it, and what changed since the last one.

    Args:
        lock: The lock of this run.
        path: Where that of the run before lies.

    Raises:
        TrainingError: If it cannot be read.
    """
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        earlier = before.pop("resumed_from", [])
        return {**lock, "resumed_from": [*earlier, before]}, differences(before, lock)
    except (OSError, ValueError, AttributeError) as err:
        raise TrainingError(
            f"Cannot read the lock of the run to resume, {str(path)!r}: {err}"
        ) from err
