"""Register a trained model: from its manifest to a version that can be judged and promoted."""

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from experiments.evaluation.errors import EvaluationError
from experiments.evaluation.intent_calibration import (
    IntentCalibration,
    calibration_path,
    read_calibration,
)
from experiments.registry.errors import RegistryError, VersionConflict
from experiments.registry.profile import differences, hashes, read_profile
from experiments.registry.records import (
    Alias,
    Kind,
    ModelVersion,
    family_name,
)
from experiments.registry.standing import Standing
from experiments.registry.store import Registry, Transaction
from experiments.whole_file import write_whole
from training.contract import PROFILE_DIR
from training.errors import ArtefactError
from training.manifest import ModelManifest, now, verify_model

Scalar = str | int | float | bool | None

_MAX_TEXT = 500


class Registration(NamedTuple):
    """What a registration did."""

    version: ModelVersion
    new: bool
    """False if exactly this was registered before."""


def register(
    manifest_path: Path,
    *,
    registry: Registry | None = None,
    name: str | None = None,
    config: Path | None = None,
    evaluation: Path | None = None,
    profile: Path | None = None,
    lineage: Mapping[str, str] | None = None,
    actor: str | None = None,
    reason: str = "",
) -> Registration:
    """Register the model that a manifest describes, as the candidate of its line.

    Args:
        manifest_path: The manifest, beside its model file.
        registry: None is the one under `CARRIL_HOME`.
        name: Model that it is a version of; None derives it, `okla-v2` 2.0.0 is a version of
            `okla`.
        config: The training configuration (YAML); its values are kept as parameters. Must be the
            one that the manifest names by hash.
        evaluation: Report of an evaluation (JSON) of this model file; kept, and shown in the card.
        profile: Directory with the prompt, schema and template that it was trained with, to be kept
            and served with it. None looks beside the manifest and at the shipped one, and keeps
            what has the hashes of the manifest.
        lineage: More of its origin, for example `run.id`, `ray.job_id`, `parent.version`.
        actor: Who registers; None is the user of this process.
        reason: Why, for the ledger.

    Raises:
        RegistryError: If anything is wrong; nothing is registered then.
    """
    registry = registry or Registry.of_home()
    try:
        manifest = verify_model(manifest_path)
        raw_manifest = manifest_path.read_bytes()
    except (ArtefactError, OSError) as error:
        raise RegistryError(f"not registered: {error}") from error
    report = None if evaluation is None else _evaluation(evaluation, manifest)
    calibration = _calibration(manifest_path.with_name(manifest.file), manifest)
    profile_files = _profile(profile, manifest_path, manifest)
    version = _record(
        manifest,
        raw_manifest,
        name=name or family_name(manifest.name, manifest.version),
        parameters={} if config is None else _parameters(config, manifest),
        # What no manifest names (the options and what they name) is pinned as well.
        lineage=hashes(profile_files) | dict(lineage or {}),
        has_profile=bool(profile_files),
        actor=actor or default_actor(),
    )
    files = {
        "version.json": version.model_dump_json(indent=2).encode() + b"\n",
        "manifest.json": raw_manifest,
    }
    if report is not None:
        files["evaluation.json"] = report
    files |= {f"profile/{name_}": content for name_, content in profile_files.items()}
    source = manifest_path.with_name(manifest.file)
    standing = registry.standings().get(version.name, Standing(version.name))
    _check_same(version, standing)
    # Outside the lock: gigabytes take a while. A damaged file in the store is replaced by this.
    new_file = registry.store_blob(source, version.sha256, version.size_bytes)
    try:
        with registry.writing() as transaction:
            standing = transaction.standing(version.name)
            if calibration is not None:
                registry.store_calibration(calibration)
            if _check_same(version, standing):
                return Registration(registry.version(version.name, version.version), new=False)
            if not registry.blob(version.sha256).is_file():
                raise RegistryError(f"{version.label}: the stored file vanished; register it again")
            _commit(registry, transaction, version, files, reason)
    except BaseException:
        if new_file:
            _drop_unused(registry, version.sha256)
        raise
    return Registration(version, new=True)


def default_actor() -> str:
    """Return who acts: `CARRIL_ACTOR`, else the user of this process."""
    return os.environ.get("CARRIL_ACTOR") or getpass.getuser()


def _check_same(version: ModelVersion, standing: Standing) -> bool:
    """Return whether exactly this is registered already."""
    known = standing.versions.get(version.version)
    if known is not None and known.sha256 != version.sha256:
        raise VersionConflict(
            f"{version.label} is registered with SHA-256 {known.sha256}; this file has "
            f"{version.sha256}",
            "a changed model is a new version: raise `version` in its configuration",
        )
    return known is not None


def _commit(
    registry: Registry,
    transaction: Transaction,
    version: ModelVersion,
    files: Mapping[str, bytes],
    reason: str,
) -> None:
    """Make the records appear whole, then the ledger's line, which is what counts."""
    directory = registry.directory(version.name, version.version)
    scratch = directory.with_name(f".{version.version}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        for file_name, content in files.items():
            (scratch / file_name).parent.mkdir(exist_ok=True)
            write_whole(scratch / file_name, content)
        # Without a line in the ledger it is what a crash left of an earlier attempt.
        shutil.rmtree(directory, ignore_errors=True)
        scratch.rename(directory)
        transaction.append(
            actor=version.registered_by,
            kind=Kind.REGISTER,
            model=version.name,
            alias=Alias.CANDIDATE,
            source=transaction.standing(version.name).aliases.get(Alias.CANDIDATE),
            target=version.ref,
            reason=reason,
            record_sha256=hashlib.sha256(files["version.json"]).hexdigest(),
        )
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        # An interruption may come after the line: what counts keeps its records.
        if version.version not in registry.standings().get(version.name, Standing("")).versions:
            shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise RegistryError(f"{version.label} was not registered: {error}") from error
        raise


def _drop_unused(registry: Registry, sha256: str) -> None:
    """Remove a stored file that no version names, unless somebody may be about to name it."""
    with contextlib.suppress(RegistryError), registry.writing(timeout_s=1.0):
        used = {
            ref.sha256
            for standing in registry.standings().values()
            for ref in standing.versions.values()
        }
        if sha256 not in used:
            registry.blob(sha256).unlink(missing_ok=True)
            calibration_path(registry.blob(sha256)).unlink(missing_ok=True)


def _record(
    manifest: ModelManifest,
    raw_manifest: bytes,
    *,
    name: str,
    parameters: dict[str, Scalar],
    lineage: dict[str, str],
    has_profile: bool,
    actor: str,
) -> ModelVersion:
    document = manifest.model_dump(mode="json")
    architecture = {f"model.{key}": value for key, value in flat(document["architecture"])}
    origin = _hashes(document)
    try:
        return ModelVersion(
            name=name,
            version=manifest.version,
            artefact=manifest.name,
            description=manifest.description,
            sha256=manifest.sha256,
            size_bytes=manifest.size_bytes,
            quantisation=manifest.quantisation,
            license=manifest.license,
            dataset_sha256=manifest.dataset_sha256,
            config_sha256=manifest.config_sha256,
            code_commit=manifest.code_commit,
            manifest_sha256=hashlib.sha256(raw_manifest).hexdigest(),
            parameters={**architecture, "seed": manifest.seed, **parameters},
            metrics={
                key: value
                for key, value in flat(document["metrics"])
                if value is None or isinstance(value, int | float)
            },
            lineage=origin | lineage,
            has_profile=has_profile,
            created_at=manifest.created_at,
            registered_at=now(),
            registered_by=actor,
        )
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})"
            for item in error.errors()
        )
        raise RegistryError(f"not registered: {faults}") from error


def _hashes(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the manifest's further hashes: `tokenizer_sha256` as `tokenizer.sha256`."""
    return {
        key.removesuffix("_sha256") + ".sha256": str(value)
        for key, value in document.items()
        if key.endswith("_sha256") and key not in ("dataset_sha256", "config_sha256")
    }


def _profile(folder: Path | None, manifest_path: Path, manifest: ModelManifest) -> dict[str, bytes]:
    """Return the files of the profile that the model was trained with; empty if it is not found.

    Raises:
        RegistryError: If a named one is another.
    """
    wanted = _hashes(manifest.model_dump(mode="json"))
    candidates = [folder] if folder else [manifest_path.with_name("profile"), PROFILE_DIR]
    changed: list[str] = []
    for candidate in candidates:
        try:
            files = read_profile(candidate)
        except OSError as error:
            raise RegistryError(f"cannot read the profile {str(candidate)!r}: {error}") from error
        changed = differences(files, wanted)
        if files and not changed:
            return files
    if folder is not None:
        raise RegistryError(
            f"{str(folder)!r} is not the profile that {manifest.name} {manifest.version} was "
            f"trained with: {', '.join(changed) or 'it is empty'}"
        )
    return {}


def flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Scalar]]:
    """Return the scalars of nested mappings by dotted key; lists as text."""
    found: list[tuple[str, Scalar]] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            found.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False)[:_MAX_TEXT]))
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _parameters(path: Path, manifest: ModelManifest) -> dict[str, Scalar]:
    from training.config import load_config
    from training.errors import ConfigError
    from training.lora.config import is_lora_config
    from training.lora.config import load_config as load_lora_config

    try:
        config = load_lora_config(path) if is_lora_config(path) else load_config(path)
    except ConfigError as error:
        raise RegistryError(f"not registered: {error}") from error
    actual = config.sha256()
    if actual != manifest.config_sha256:
        raise RegistryError(
            f"{str(path)!r} is not the configuration of {manifest.name} {manifest.version}: its "
            f"hash is {actual}, the manifest names {manifest.config_sha256}"
        )
    return dict(flat(config.model_dump(mode="json")))


def _evaluation(path: Path, manifest: ModelManifest) -> bytes:
    """Return the bytes of a report that names a model file only if it is this one."""
    try:
        raw = path.read_bytes()
        document = json.loads(raw)
    except (OSError, ValueError) as error:
        raise RegistryError(f"cannot use the evaluation report {str(path)!r}: {error}") from error
    if not isinstance(document, dict):
        raise RegistryError(f"the evaluation report {str(path)!r} is no JSON object")
    target = document.get("target")
    if isinstance(target, dict) and target.get("sha256") != manifest.sha256:
        raise RegistryError(
            f"the evaluation report {str(path)!r} is about the file {target.get('sha256')}, the "
            f"manifest describes {manifest.sha256}"
        )
    return raw


def _calibration(model: Path, manifest: ModelManifest) -> IntentCalibration | None:
    """Return the calibration that lies beside a model file, None if that is of another file.

    Raises:
        RegistryError: If it is broken.
    """
    path = calibration_path(model)
    if not path.is_file():
        return None
    try:
        found = read_calibration(path)
    except EvaluationError as error:
        raise RegistryError(f"not registered: {error.message}", error.fix) from error
    return found if found.model_sha256 == manifest.sha256 else None
