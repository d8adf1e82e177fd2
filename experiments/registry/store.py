"""The registry on disk: versions, model files by content, and the ledger that says what counts.

    registry/ledger.jsonl                      what counts (ledger.py)
    registry/models/<name>/<version>/          version.json, manifest.json, evaluation.json,
                                               profile/, gates/
    registry/blobs/<2 digits>/<sha256>.gguf    model files, read-only, and <sha256>.calibration.json

Serving, the gateway's routes and the promotion read and write here; none of them needs MLflow.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from experiments.evaluation.errors import EvaluationError
from experiments.evaluation.intent_calibration import (
    IntentCalibration,
    calibration_path,
    read_calibration,
    write_calibration,
)
from experiments.registry.errors import AlteredFile, RegistryError, UnknownVersion, brief
from experiments.registry.ledger import Ledger
from experiments.registry.lock import HeldLock, locked
from experiments.registry.profile import ServedFiles, differences, prior_sha256, read_profile
from experiments.registry.records import Alias, LedgerEntry, ModelVersion, State, VersionRef
from experiments.registry.standing import Standing, standings

LOCK_TIMEOUT_S = 30.0
"""Longest wait for another writer. A promotion that deploys holds the lock until it is served."""
_CHUNK_BYTES = 1 << 22
_SPARE_BYTES = 64 * 2**20
"""Room that must be left beside a copied file, for records, ledger and logs."""
_STALE_PART_S = 86_400
"""Age of a half-copied file that no living process can still be writing."""


class Registry:
    """A registry directory.

    Args:
        root: Its path; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._ledger = Ledger(self.root)

    @classmethod
    def of_home(cls, environ: Mapping[str, str] = os.environ) -> "Registry":
        """Return the registry under `CARRIL_HOME`, `./var` by default."""
        return cls(Path(environ.get("CARRIL_HOME") or "var") / "registry")

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return the ledger.

        Raises:
            BrokenLedger: If its chain does not hold.
        """
        return self._ledger.entries()

    def torn_bytes(self) -> int:
        """Return how many bytes of an unfinished line a crash left at the end of the ledger."""
        return self._ledger.torn_bytes()

    def standings(self) -> dict[str, Standing]:
        """Return what the ledger says now, by model name."""
        return standings(self.entries())

    def directory(self, name: str, version: str) -> Path:
        """Return where the records of a version are."""
        return self.root / "models" / name / version

    def blob(self, sha256: str) -> Path:
        """Return where the model file of a hash is."""
        return self.root / "blobs" / sha256[:2] / f"{sha256}.gguf"

    def version(self, name: str, version: str) -> ModelVersion:
        """Return the record of a registered version.

        Raises:
            RegistryError: If it cannot be read.
        """
        path = self.directory(name, version) / "version.json"
        try:
            return ModelVersion.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RegistryError(f"cannot use the record {str(path)!r}: {brief(error)}") from error

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that a reference names.

        Args:
            reference: `okla@2.0.0`, `okla@champion` (also `@production`), `okla` (its champion,
                else its newest version), the manifest's name such as `okla-v2`, or 12 or more
                digits of the SHA-256.

        Raises:
            UnknownVersion: If there is none, or more than one.
        """
        models = self.standings()
        name, _, wanted = reference.partition("@")
        if wanted:
            if name not in models:
                raise self._unknown(reference, models)
            return self.version(name, _pick(models[name], wanted).version)
        if name in models and models[name].versions:
            standing = models[name]
            ref = standing.aliases.get(Alias.CHAMPION) or list(standing.versions.values())[-1]
            return self.version(name, ref.version)
        found = [
            candidate
            for candidate in self.versions(models)
            if candidate.artefact == reference
            or (len(reference) >= 12 and candidate.sha256.startswith(reference))
        ]
        if not found:
            raise self._unknown(reference, models)
        if len(found) > 1:
            labels = ", ".join(candidate.label for candidate in found)
            raise UnknownVersion(f"{reference!r} is ambiguous: {labels}")
        return found[0]

    def versions(self, models: Mapping[str, Standing] | None = None) -> list[ModelVersion]:
        """Return every registered version, in order of registration within a model."""
        models = self.standings() if models is None else models
        return [
            self.version(name, version)
            for name, standing in sorted(models.items())
            for version in standing.versions
        ]

    def verify_blob(self, version: ModelVersion) -> Path:
        """Hash the stored model file again and return its path; about 1 s per GB.

        Raises:
            AlteredFile: If it is missing or has another content.
        """
        path = self.blob(version.sha256)
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise AlteredFile(
                f"the model file of {version.label} cannot be read: {error}",
                "register the model again, from its manifest",
            ) from error
        if actual != version.sha256:
            raise AlteredFile(
                f"the model file of {version.label} was altered: {str(path)!r} has SHA-256 "
                f"{actual}, registered and judged was {version.sha256}",
                "delete the file and register the model again, from its manifest",
            )
        return path

    def verify_profile(self, version: ModelVersion) -> Path | None:
        """Check the profile that is kept with a version and return its directory, if there is one.

        Raises:
            AlteredFile: If it is gone, or not the one that the model was trained with.
        """
        if not version.has_profile:
            return None
        folder = self.directory(version.name, version.version) / "profile"
        try:
            changed = differences(read_profile(folder), version.lineage)
        except OSError as error:
            raise AlteredFile(f"the profile of {version.label} cannot be read: {error}") from error
        if changed:
            raise AlteredFile(f"the profile of {version.label} was altered: {', '.join(changed)}")
        return folder

    def verified_files(self, version: ModelVersion) -> ServedFiles:
        """Check everything that a version is served from, and return where it is.

        Raises:
            AlteredFile: If any of it is not what was registered.
        """
        return ServedFiles(self.verify_blob(version), self.verify_profile(version))

    def calibration(self, version: ModelVersion) -> IntentCalibration | None:
        """Return how far the probabilities of a version can be believed, if that was fitted.

        One that was fitted on another file, or with another intent prior than the profile that is
        kept with the version has, says nothing about it.

        Raises:
            RegistryError: If the record or the profile cannot be used.
        """
        path = calibration_path(self.blob(version.sha256))
        if not path.is_file():
            return None
        try:
            found = read_calibration(path)
        except EvaluationError as error:
            raise RegistryError(error.message, error.fix) from error
        if found.model_sha256 != version.sha256:
            return None
        return found if self._has_prior(version, found.prior_sha256) else None

    def _has_prior(self, version: ModelVersion, sha256: str | None) -> bool:
        if not version.has_profile:
            return True  # served with the profile of the config, whatever that is
        folder = self.directory(version.name, version.version) / "profile"
        try:
            return prior_sha256(read_profile(folder)) == sha256
        except OSError as error:
            raise AlteredFile(f"the profile of {version.label} cannot be read: {error}") from error

    def store_calibration(self, calibration: IntentCalibration) -> None:
        """Keep a calibration beside the stored file that it was fitted on; a newer one replaces it.

        Raises:
            RegistryError: If it cannot be written.
        """
        path = calibration_path(self.blob(calibration.model_sha256))
        try:
            write_calibration(calibration, path)
        except OSError as error:
            raise RegistryError(f"cannot store {path.name}: {error}") from error

    def store_blob(self, source: Path, sha256: str, size_bytes: int) -> bool:
        """Copy a model file into the store; return whether it was new.

        A copy and not a hard link: whoever writes to the original later must not reach this one.

        Raises:
            AlteredFile: If the content that was copied has another hash.
            RegistryError: If the disk is full or the file cannot be read; nothing is left behind.
        """
        target = self.blob(sha256)
        if target.is_file() and _file_sha256(target) == sha256:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size_bytes + _SPARE_BYTES:
            raise RegistryError(
                f"not enough room for {source.name}: {size_bytes / 2**20:.0f} MiB and "
                f"{_SPARE_BYTES // 2**20} MiB to spare are needed, {free / 2**20:.0f} MiB are free "
                f"under {self.root}",
                "make room, or set CARRIL_HOME to another disk",
            )
        self._drop_stale_parts()
        part = target.with_name(f".{sha256}.{uuid.uuid4().hex}.part")
        try:
            actual = _copy(source, part)
            if actual != sha256:
                raise AlteredFile(
                    f"{source.name} changed while it was copied: SHA-256 {actual}, expected "
                    f"{sha256}"
                )
            part.chmod(0o444)
            part.replace(target)
        except OSError as error:
            raise RegistryError(f"cannot store {source.name}: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        return True

    @contextmanager
    def writing(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator["Transaction"]:
        """Hold the registry's lock, with the ledger as it is now.

        Raises:
            RegistryBusy: If another process writes for longer than `timeout_s`.
        """
        tokens = [entry.token for entry in self.entries()]
        with locked(
            self.root / "ledger.lock", last_token=max(tokens, default=0), timeout_s=timeout_s
        ) as lock:
            yield Transaction(self._ledger, lock)

    def _drop_stale_parts(self) -> None:
        oldest = time.time() - _STALE_PART_S
        for part in (self.root / "blobs").glob("*/.*.part"):
            if part.stat().st_mtime < oldest:
                part.unlink(missing_ok=True)

    def _unknown(self, reference: str, models: Mapping[str, Standing]) -> UnknownVersion:
        known = sorted(models)
        return UnknownVersion(
            f"no registered model answers to {reference!r}; registered: {known}",
            "carril models ls shows them; carril models register MANIFEST adds one",
        )


class Transaction:
    """The registry while its lock is held.

    Args:
        ledger: The ledger.
        lock: The lock.
    """

    def __init__(self, ledger: Ledger, lock: HeldLock) -> None:
        self._ledger = ledger
        self._lock = lock
        self._entries = ledger.entries()

    def standing(self, name: str) -> Standing:
        """Return the standing of a model, an empty one if it is new."""
        return standings(self._entries).get(name) or Standing(name)

    def append(self, **fields: object) -> LedgerEntry:
        """Append an entry; it counts once this returns.

        Raises:
            RegistryBusy: If the lock was taken over.
            OSError: If it cannot be written; the ledger is as before.
        """
        entry = self._ledger.append(
            {"at": datetime.now(UTC).replace(microsecond=0), **fields}, self._entries, self._lock
        )
        self._entries = (*self._entries, entry)
        return entry


def _pick(standing: Standing, wanted: str) -> VersionRef:
    """Return the version of an alias or of a version number."""
    if wanted in standing.versions:
        return standing.versions[wanted]
    if wanted in (State.PRODUCTION, State.PRODUCTION.lifecycle):
        wanted = Alias.CHAMPION
    if wanted in set(Alias):
        found = standing.aliases.get(Alias(wanted))
        if found is not None:
            return found
        raise UnknownVersion(f"{standing.name} has no {wanted}")
    raise UnknownVersion(
        f"{standing.name} has no version or alias {wanted!r}; versions: "
        f"{list(standing.versions)}, aliases: {sorted(standing.aliases)}"
    )


def _copy(source: Path, target: Path) -> str:
    """Copy a file durably and return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
