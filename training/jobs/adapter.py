"""LoRA on a local base, as a job: `training.lora` with metrics and a way to stop."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs import preflight
from experiments.jobs.errors import JobStopped
from experiments.jobs.preflight import Check
from training.errors import ConfigError
from training.jobs.run_lock import FILE as LOCK_FILE
from training.lora.config import LoraConfig, load_config
from training.manifest import ModelManifest, file_sha256

if TYPE_CHECKING:
    from experiments.jobs.session import JobSession
    from training.lora.metrics import StepMetrics
    from training.tracking import TrackedRun

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "llama_cpp")
_SAY_EVERY_STEPS = 10
_LIBRARIES_BYTES = 1 << 30
_DISK_MARGIN_BYTES = 200 << 20


class AdapterRecipe:
    """A LoRA training.

    Args:
        path: Its configuration.

    Raises:
        ConfigError: If that cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.config: LoraConfig = load_config(path)

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
        """Hash of the configuration, the data, and the base; of its gigabytes names and sizes."""
        base, dataset = self.config.base, self.config.dataset
        digest = hashlib.sha256(self.sha256.encode())
        for path in sorted([*base.glob("*.json"), *dataset.glob("*.jsonl")]):
            digest.update(f"\0{path.name}\0{file_sha256(path)}".encode())
        for path in sorted(base.glob("*.safetensors")):
            digest.update(f"\0{path.name}\0{path.stat().st_size}".encode())
        return digest.hexdigest()

    def params(self) -> dict[str, Any]:
        """Return name, version, seed, and the settings of adapter and optimiser."""
        optim = self.config.optim.model_dump(mode="json")
        adapter = self.config.adapter.model_dump(mode="json")
        return {
            "name": self.name,
            "version": self.version,
            "seed": self.config.seed,
            "base": str(self.config.base),
            **{f"adapter.{name}": value for name, value in adapter.items()},
            **{f"optim.{name}": value for name, value in optim.items()},
        }

    def checks(self, out: Path) -> list[Check]:
        """Look at packages, base, data, disk and memory."""
        base, dataset = self.config.base, self.config.dataset
        weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        conversations = dataset / "train.jsonl"
        return [
            preflight.packages(_PACKAGES, target="training"),
            self._check_base(),
            Check("data", conversations.is_file(), str(conversations), "carril data generate"),
            # Merged network, F16 and quantised file, adapter; twice the bytes where it is 16 bits.
            preflight.disk(out, 5 * weights + _DISK_MARGIN_BYTES),
            preflight.memory(2 * weights + _LIBRARIES_BYTES),
        ]

    def _check_base(self) -> Check:
        from training.lora.base import open_base

        config = self.config
        try:
            base = open_base(config.base, template=config.chat_template, q4_k_m=config.q4_k_m)
        except ConfigError as error:
            return Check("base", False, str(error))
        return Check("base", True, f"{base.n_parameters:,} weights in {base.folder}")

    def made(self, manifest: ModelManifest, out: Path) -> bool:  # noqa: ARG002 (part of the protocol)
        """Return False: base and data are not part of the configuration's hash."""
        return False

    def train(self, session: "JobSession", run: "TrackedRun", out: Path) -> ModelManifest:
        """Run the LoRA pipeline, which writes the lock before its first step."""
        from training.lora.pipeline import LoraRun
        from training.lora.trainer import TrainingStopped

        n_steps = self.config.optim.n_steps
        lock_kept = False

        def on_step(figures: "StepMetrics") -> None:
            nonlocal lock_kept
            if not lock_kept:
                session.folder.put(LOCK_FILE, (out / LOCK_FILE).read_text(encoding="utf-8"))
                run.log_artifact(out / LOCK_FILE)
                lock_kept = True
            numbers = {
                "loss": figures.loss,
                "perplexity": figures.perplexity,
                "tokens_per_second": figures.tokens_per_second,
                "peak_share": figures.peak_share,
                "dev_loss": figures.dev_loss,
                "dev_json_validity": figures.dev_json_validity,
                "dev_intent_accuracy": figures.dev_intent_accuracy,
            }
            known = {name: value for name, value in numbers.items() if value is not None}
            if figures.step % _SAY_EVERY_STEPS == 0 or figures.step == n_steps:
                run.log_metrics(known, step=figures.step)

        lora = LoraRun(self.config, out, report=session.say, code=session.record.code)
        run.set_tags({"dataset.sha256": lora.dataset_sha256})
        try:
            with session.stopping_at_checkpoints():
                return lora.run(on_step=on_step, stop_asked=lambda: session.stop_asked)
        except TrainingStopped as stopped:
            session.say(str(stopped))
            raise JobStopped from stopped
