"""Training from scratch, as a job: `training.pipeline` with a lock, metrics and a way to stop."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs import preflight
from experiments.jobs.errors import JobStopped
from experiments.jobs.preflight import Check
from experiments.whole_file import write_whole
from training.config import TrainConfig, load_config
from training.jobs import needs
from training.jobs.progress import parse
from training.jobs.recipe import CHECKPOINT, TRAINED
from training.jobs.run_lock import FILE as LOCK_FILE
from training.jobs.run_lock import differences, run_lock, to_text
from training.manifest import ModelManifest

if TYPE_CHECKING:
    from experiments.jobs.session import JobSession
    from training.data.dataset import DatasetManifest
    from training.tracking import TrackedRun

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "llama_cpp")
_PATIENCE_S = 15.0
"""A request to stop waits this long for the next checkpoint; Ray kills after 30 s."""


class ScratchRecipe:
    """A training from scratch.

    Args:
        path: Its configuration.

    Raises:
        ConfigError: If that cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config: TrainConfig = load_config(path)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.config.name

    @property
    def version(self) -> str:
        """Semantic version of the model."""
        return self.config.version

    @property
    def sha256(self) -> str:
        """Hash of the configuration."""
        return self.config.sha256()

    @property
    def work_sha256(self) -> str:
        """Hash of the configuration, which decides the data."""
        return self.sha256

    def params(self) -> dict[str, Any]:
        """Return name, version, seeds and the optimiser's settings."""
        optim = self.config.optim.model_dump(mode="json")
        return {
            "name": self.name,
            "version": self.version,
            "seed": self.config.seed,
            "data.seed": self.config.data.seed,
            "data.n_train": self.config.data.n_train,
            **{f"optim.{name}": value for name, value in optim.items()},
        }

    def checks(self, out: Path) -> list[Check]:
        """Look at packages, data, disk and memory."""
        return [
            preflight.packages(_PACKAGES, target="training"),
            self._check_data(),
            self._check_device(out),
            preflight.disk(out, needs.disk_bytes(self.config)),
            preflight.memory(needs.memory_bytes(self.config)),
        ]

    def made(self, manifest: ModelManifest, out: Path) -> bool:
        """Return whether configuration and phrases are still those that the model was made from."""
        from training.data.catalog import catalog_sha256
        from training.data.dataset import DatasetManifest

        try:
            text = (out / "data" / "manifest.json").read_text(encoding="utf-8")
            dataset = DatasetManifest.model_validate_json(text)
        except (OSError, ValueError):
            return False
        same_phrases = dataset.catalog_sha256 == catalog_sha256()
        return (
            same_phrases
            and manifest.config_sha256 == self.sha256
            and _finished_network(out) == _trained_network(out)
        )

    def train(self, session: "JobSession", run: "TrackedRun", out: Path) -> ModelManifest:
        """Write data and lock, then run the pipeline."""
        from training.data.dataset import kept_dataset, write_dataset
        from training.pipeline import run as run_pipeline

        dataset = kept_dataset(self.config.data, out / "data")
        if dataset is None:
            session.say("writing the dataset")
            dataset = write_dataset(self.config.data, out / "data")
        else:
            session.say("the dataset is there")
        self._write_lock(session, dataset, out)
        run.set_tags({"dataset.sha256": dataset.sha256})
        run.log_artifact(out / LOCK_FILE)
        stop = _StopAtCheckpoint(session, out / CHECKPOINT)

        def report(line: str) -> None:
            session.say(line)
            part = parse(line)
            if part is not None and part.metrics:
                run.log_metrics(part.metrics, step=part.done)
            stop.look(between_steps=part is not None and part.what == "step")

        with session.stopping_at_checkpoints():
            manifest = run_pipeline(self.config, out, dataset=dataset, report=report)
        run.log_artifact(out / "metrics.json")
        return manifest

    def _check_data(self) -> Check:
        from training.data.catalog import CatalogError, load_catalog

        try:
            catalog = load_catalog()
        except (CatalogError, OSError) as error:
            return Check("data", False, str(error), "repair the catalogue of phrases")
        n_train = self.config.data.n_train
        return Check("data", True, f"{len(catalog.patterns)} phrases for {n_train:,} conversations")

    def _check_device(self, out: Path) -> Check:
        if self.config.device == "cpu":
            return Check("device", True, "cpu, as the configuration asks for")
        import torch

        if torch.cuda.is_available():
            return Check("device", True, torch.cuda.get_device_name(0))
        if _trained_network(out) is not None:
            return Check("device", True, "no GPU is here, and a trained network is")
        advice = "train with --until prepared and `python -m training.fit` (README)"
        return Check("device", False, "cuda is asked for and torch sees no GPU", advice)

    def _write_lock(self, session: "JobSession", dataset: "DatasetManifest", out: Path) -> None:
        lock = run_lock(self.config, self._path, dataset, session.record.code)
        path = out / LOCK_FILE
        if path.exists() and (out / CHECKPOINT).exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for line in differences(before, lock):
                session.say(f"changed since this training began: {line}")
            lock["resumed_from"] = [*before.pop("resumed_from", []), before]
        text = to_text(lock)
        write_whole(path, text.encode())
        session.folder.put(LOCK_FILE, text)


def _trained_network(out: Path) -> str | None:
    """Return the hash of the network that a folder's `trained.json` names, None without one."""
    return _named(out / TRAINED, lambda record: record["network_sha256"])


def _finished_network(out: Path) -> str | None:
    """Return the hash of the network that a folder's model was made from, None if not told."""
    return _named(out / "metrics.json", lambda record: record["training"]["network_sha256"])


def _named(path: Path, pick: Callable[[Any], str]) -> str | None:
    # Any: JSON, of which one value is wanted.
    try:
        return pick(json.loads(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return None


class _StopAtCheckpoint:
    """Stops a training that was asked to right after its next checkpoint, or when that is far off.

    Args:
        session: The job.
        checkpoint: The file.
    """

    def __init__(self, session: "JobSession", checkpoint: Path) -> None:
        self._session = session
        self._checkpoint = checkpoint

    def look(self, *, between_steps: bool) -> None:
        """Stop, if it is time to.

        Args:
            between_steps: Whether a checkpoint may still come.

        Raises:
            JobStopped: If it is.
        """
        asked_at = self._session.stop_asked_at
        if asked_at is None:
            return
        # Wall clock, as that is what a file carries; a jump of it stops at an older checkpoint.
        saved = self._checkpoint.exists() and self._checkpoint.stat().st_mtime > asked_at
        if saved or not between_steps or time.time() - asked_at > _PATIENCE_S:
            raise JobStopped
