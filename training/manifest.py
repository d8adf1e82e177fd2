"""The manifest beside a model file: what it is, came from and achieved, tied by hashes."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.data.dataset import write_text
from training.errors import ArtefactError

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Record):
    """The network's shape."""

    family: Literal["llama"] = "llama"
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    context_length: int
    n_params: int


class Metrics(_Record):
    """What was measured on held-out phrase families, on the shipped file unless said otherwise."""

    n_conversations: int
    heldout_loss: float
    """Nats per learnt token of the network before quantisation."""
    train_loss: float
    """Nats per learnt token over the last 5 % of the training."""
    json_validity: float | None
    intent_accuracy: float | None
    signals_accuracy: float | None
    handoff_accuracy: float | None
    """Signals and hand-off: among valid replies, null where there are none."""
    echo_accuracy: float | None
    """Vehicle names in replies that the customer had said; null where no reply names one."""
    intent_accuracy_by_register: dict[str, float | None]
    mean_reply_tokens: float


class ModelManifest(_Record):
    """Identity and lineage of one model file."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    name: str
    version: str
    description: str
    file: str
    """File name, in the manifest's folder."""
    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0)]
    quantisation: str
    tensor_types: dict[str, int]
    architecture: Architecture
    dataset_sha256: Sha256
    tokenizer_sha256: Sha256
    config_sha256: Sha256
    system_prompt_sha256: Sha256
    answer_schema_sha256: Sha256
    chat_template_sha256: Sha256
    seed: int
    code_commit: str | None
    """Git commit of the trainer, null outside a checkout."""
    metrics: Metrics
    created_at: datetime
    license: str = "Apache-2.0"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks.

    Raises:
        ArtefactError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ArtefactError(f"Cannot read {str(path)!r}: {err}") from err


def manifest_path(model: Path) -> Path:
    """Return where the manifest of a model lies: `a.Q4_K_M.gguf` -> `a.manifest.json`."""
    return model.with_name(f"{model.name.split('.', 1)[0]}.manifest.json")


def write_manifest(manifest: ModelManifest, folder: Path) -> Path:
    """Write a manifest beside its model and return its path."""
    path = manifest_path(folder / manifest.file)
    write_text(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read_manifest(path: Path) -> ModelManifest:
    """Read a manifest.

    Raises:
        ArtefactError: If it is missing, newer than this code, or breaks a rule.
    """
    try:
        return ModelManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as err:
        raise ArtefactError(f"Cannot use the manifest {str(path)!r}: {err}") from err


def verify_model(path: Path) -> ModelManifest:
    """Return the manifest at `path` after checking that its model file is the one it describes.

    Raises:
        ArtefactError: If file and manifest disagree; the message has both hashes.
    """
    manifest = read_manifest(path)
    model = path.with_name(manifest.file)
    actual = file_sha256(model)
    if actual != manifest.sha256:
        raise ArtefactError(
            f"{model.name} has SHA-256 {actual}, its manifest says {manifest.sha256}"
        )
    return manifest


def now() -> datetime:
    """Return the time of writing, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
