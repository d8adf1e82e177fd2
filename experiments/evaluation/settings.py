"""What an evaluation is made of: the one typed configuration of command and job."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.evaluation.classifiers import ClassifierKind
from experiments.evaluation.dimensions import Skippable, Thresholds
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import calibration_path
from experiments.evaluation.profile import DEFAULT_DIR

PACKAGED_SUITES = Path(__file__).with_name("data")
DEFAULT_URL = "http://127.0.0.1:8000"


class EvaluationSettings(BaseModel):
    """Target, suites and thresholds of one run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Literal["served", "gguf", "baseline"]
    """A server, a model file, or a simpler classifier alone."""
    model: str | None = None
    """Served model for `served`, path of the file for `gguf`."""
    url: str = DEFAULT_URL
    """Address of the API, without `/v1`."""
    suites: tuple[Path, ...] = ()
    """Suite files, or folders of them. The packaged attacks come along unless skipped or given."""
    train: Path | None = None
    """`train.jsonl` of a dataset, for the simpler classifiers of the table."""
    baseline_model: ClassifierKind = "svm"
    """Which of them `baseline` is; the stronger one by default."""
    profile: Path = DEFAULT_DIR
    """Folder with system prompt, chat template and answer schema."""
    grammar: bool = True
    """Whether a GGUF's answers are forced into the schema."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests at the same time."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of a GGUF; 0 takes the cores this process may use, but one for a small model."""
    n_ctx: Annotated[int, Field(ge=128)] = 1024
    """Context of a GGUF in tokens."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Most items of each suite; they are chosen by a hash of their ids."""
    skip: frozenset[Skippable] = frozenset()
    """Parts to leave out."""
    calibration: Path | None = None
    """Calibration to decide by. None looks beside a GGUF, and for a served model in the registry
    and beside the shipped models, for the one of this very file."""
    thresholds: Thresholds = Thresholds()
    """What must be reached."""

    @model_validator(mode="after")
    def _has_a_model(self) -> "EvaluationSettings":
        if self.target != "baseline" and not self.model:
            raise ValueError(f"target {self.target!r} needs a model")
        if self.target == "baseline" and self.train is None:
            raise ValueError("target 'baseline' needs train: the train.jsonl of a dataset")
        return self

    def sha256(self) -> str:
        """Return a hash of the settings and of the content of every file that they name."""
        digest = hashlib.sha256(self.model_dump_json(exclude={"skip"}).encode())
        digest.update(",".join(sorted(self.skip)).encode())
        for path in self._files():
            digest.update(f"\0{path}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _files(self) -> list[Path]:
        model = [Path(self.model)] if self.target == "gguf" and self.model else []
        optional = [path for path in (self.train, self.calibration) if path is not None]
        named = [*model, *self._beside(), *self.suites, *optional, self.profile]
        found = [p for path in named for p in (sorted(path.glob("*")) if path.is_dir() else [path])]
        return [path for path in found if path.is_file()]

    def _beside(self) -> list[Path]:
        if self.target != "gguf" or not self.model or self.calibration is not None:
            return []
        return [calibration_path(Path(self.model))]

    @property
    def run_name(self) -> str:
        """A file name for the run's folder."""
        if self.target == "baseline":
            return f"tfidf_{self.baseline_model}"
        name = Path(self.model or "").name.removesuffix(".gguf")
        return re.sub(r"[^A-Za-z0-9._@-]+", "-", name)


def read_settings(path: Path) -> EvaluationSettings:
    """Read a YAML file of settings; relative paths in it are relative to the working directory.

    Raises:
        BadInput: If it is missing, no YAML, or breaks a rule; the message names the field.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise BadInput(f"Cannot read the evaluation config {str(path)!r}: {err}") from err
    return make_settings(document, where=str(path))


def make_settings(document: object, *, where: str) -> EvaluationSettings:
    """Check settings.

    Raises:
        BadInput: If a rule is broken; the message names the field.
    """
    try:
        return EvaluationSettings.model_validate(document)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: {field + ': ' if field else ''}{first['msg']}") from err
