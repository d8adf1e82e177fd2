"""What others are told about models: plain documents for lists and for HTTP."""

from typing import Any

from experiments.registry.errors import UnknownVersion
from experiments.registry.records import Alias, ModelVersion, utc_text
from experiments.registry.standing import Standing
from experiments.registry.store import Registry


def version_summary(version: ModelVersion, standing: Standing) -> dict[str, Any]:
    """Return what a list says about a version."""
    state = standing.state(version.version)
    gates = standing.gates.get(version.sha256)
    return {
        "name": version.name,
        "version": version.version,
        "artefact": version.artefact,
        "sha256": version.sha256,
        "size_bytes": version.size_bytes,
        "state": state.value,
        "lifecycle": state.lifecycle,
        "aliases": [alias.value for alias in standing.aliases_of(version.version)],
        "gate": gates[-1].verdict.value if gates else None,
        "registered_at": utc_text(version.registered_at),
        "registered_by": version.registered_by,
    }


def model_list(registry: Registry) -> dict[str, Any]:
    """Return every model with its aliases and versions.

    Raises:
        RegistryError: If the registry cannot be read.
    """
    models = registry.standings()
    versions = registry.versions(models)
    return {
        "models": [
            {
                "id": name,
                "production": _version_of(standing, Alias.CHAMPION),
                "challenger": _version_of(standing, Alias.CHALLENGER),
                "candidate": _version_of(standing, Alias.CANDIDATE),
                "versions": [
                    _public(registry, version, standing)
                    for version in versions
                    if version.name == name
                ],
            }
            for name, standing in sorted(models.items())
        ]
    }


def production(registry: Registry, name: str) -> dict[str, Any]:
    """Return the version of a model that is in production, with what it rests on.

    Raises:
        UnknownVersion: If there is no such model, or it has no champion.
        RegistryError: If the registry cannot be read.
    """
    models = registry.standings()
    standing = models.get(name)
    if standing is None:
        raise UnknownVersion(f"unknown model {name!r}; registered: {sorted(models)}")
    entry = standing.moves.get(Alias.CHAMPION)
    champion = standing.aliases.get(Alias.CHAMPION)
    if champion is None or entry is None:
        raise UnknownVersion(
            f"model {name!r} has no version in production; registered: {list(standing.versions)}"
        )
    version = registry.version(name, champion.version)
    previous = standing.previous_champion
    return {
        "id": name,
        **_public(registry, version, standing),
        "parameters": version.parameters,
        "lineage": version.lineage,
        "dataset_sha256": version.dataset_sha256,
        "config_sha256": version.config_sha256,
        "code_commit": version.code_commit,
        "promoted_at": utc_text(entry.at),
        "promoted_by": entry.kind.value,
        "gate_report": None if entry.gate is None else entry.gate.model_dump(mode="json"),
        "deployed": None if entry.deployed is None else entry.deployed.model_dump(mode="json"),
        "previous": None if previous is None else previous.version,
    }


def _public(registry: Registry, version: ModelVersion, standing: Standing) -> dict[str, Any]:
    """Return a summary without the people behind it, for callers who only have an API key."""
    summary = version_summary(version, standing)
    del summary["name"], summary["registered_by"]
    calibration = registry.calibration(version)
    return {
        **summary,
        "description": version.description,
        "quantisation": version.quantisation,
        "metrics": version.metrics,
        "calibration": None if calibration is None else calibration.model_dump(mode="json"),
    }


def _version_of(standing: Standing, alias: Alias) -> str | None:
    ref = standing.aliases.get(alias)
    return None if ref is None else ref.version
