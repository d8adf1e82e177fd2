"""The configuration of a retraining: that of an earlier training with another dataset and version.

A training from scratch forgets what it does not see, so its dataset must have every original
example; an adapter on a trained base learns from the 70/30 mix.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from experiments.retraining.errors import BadRecord, Blocked
from experiments.whole_file import write_whole
from training.retrain.prepare import RetrainManifest

_VERSION = re.compile(r"(\d+)\.(\d+)\.\d+")


def derive_config(
    source: Path, dataset: Path, manifest: RetrainManifest, folder: Path, *, version: str | None
) -> Path:
    """Write the configuration of a retraining and return its path.

    Args:
        source: Configuration of a training from scratch or of an adapter.
        dataset: Folder of the prepared dataset.
        manifest: Its manifest.
        folder: Where to write; the same inputs give the same file.
        version: Of the new model; None takes the next minor version.

    Raises:
        BadRecord: If `source` is no configuration.
        Blocked: If the dataset does not suit the kind of training.
    """
    document = _read(source)
    name, before = str(document.get("name")), str(document.get("version"))
    found = _VERSION.fullmatch(before)
    if found is None:
        raise BadRecord(f"{str(source)!r} has version {before!r}; needed: three numbers")
    document["version"] = version or f"{found[1]}.{int(found[2]) + 1}.0"
    if document.get("kind") == "lora":
        # Relative folders of a configuration are relative to its file, which moves.
        document["base"] = str(source.absolute().parent / str(document.get("base")))
        document["dataset"] = str(dataset.absolute())
    elif not manifest.policy.all_original:
        raise Blocked(
            f"{name} is trained from scratch, and {dataset.name} has only {manifest.n_original} "
            "original examples: it would forget the rest",
            "carril retrain prepare --all-original",
        )
    else:
        document["dataset"] = {"path": str(dataset.absolute()), "sha256": manifest.sha256}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    path = folder / f"{name}-{document['version']}-{manifest.sha256[:12]}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path


def _read(path: Path) -> dict[str, Any]:
    # Any: it is YAML; the training checks every field when it loads what is derived.
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadRecord(f"cannot read the configuration {str(path)!r}: {error}") from error
    if not isinstance(document, dict):
        raise BadRecord(f"{str(path)!r} is no training configuration")
    return document
