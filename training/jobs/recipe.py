"""The kinds of training, as a job sees them: from scratch, or an adapter on a base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from experiments.jobs.preflight import Check
from training.errors import ConfigError
from training.manifest import ModelManifest

if TYPE_CHECKING:
    from experiments.jobs.session import JobSession
    from training.tracking import TrackedRun

CHECKPOINT = "checkpoint.pt"
"""File of a work folder from which a training of either kind goes on."""
TRAINED = "trained.json"
"""File of a work folder whose network is trained, and perhaps no model yet."""


class Recipe(Protocol):
    """A training that its configuration describes completely."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Semantic version of the model."""

    @property
    def sha256(self) -> str:
        """Hash of the configuration."""

    @property
    def work_sha256(self) -> str:
        """Hash of the configuration and of what it names by place only."""

    def params(self) -> dict[str, Any]:
        """Return what a tracking store keeps as parameters."""

    def checks(self, out: Path) -> list[Check]:
        """Look at everything that could stop the training later."""

    def made(self, manifest: ModelManifest, out: Path) -> bool:
        """Return whether the finished model of a work folder is what this recipe gives now."""

    def train(self, session: "JobSession", run: "TrackedRun", out: Path) -> ModelManifest:
        """Do everything in `out`, the run's lock first.

        Raises:
            JobStopped: If that was asked for; a checkpoint is there.
            TrainingError: With the reason, when a step does not keep its promise.
        """


def load_recipe(path: Path) -> Recipe:
    """Read a configuration of either kind; `kind: lora` tells an adapter.

    Raises:
        ConfigError: If it cannot be used; the message says why.
    """
    from training.jobs.adapter import AdapterRecipe
    from training.jobs.scratch import ScratchRecipe

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read the configuration {str(path)!r}: {error}") from error
    kind = raw.get("kind") if isinstance(raw, dict) else None
    return AdapterRecipe(path) if kind == "lora" else ScratchRecipe(path)
