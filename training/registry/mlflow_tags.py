"""What MLflow is told about a version: tags and aliases, from the registry's own records."""

from experiments.registry.records import Alias, ModelVersion
from experiments.registry.standing import Standing

_PRODUCTION_ALIAS = "production"
_PREVIOUS_ALIAS = "previous_champion"
OWN_ALIASES = {*(alias.value for alias in Alias), _PRODUCTION_ALIAS, _PREVIOUS_ALIAS}
"""Aliases that carril moves; those that people add in MLflow are theirs."""
VERSION_TAG = "carril.version"

"""Tag with carril's version; MLflow numbers versions itself."""


def wanted_aliases(standing: Standing) -> dict[str, str]:
    """Return MLflow's aliases of a model: the ledger's, and two words that others look for."""
    wanted = {alias.value: ref.version for alias, ref in standing.aliases.items()}
    if Alias.CHAMPION in standing.aliases:
        wanted[_PRODUCTION_ALIAS] = standing.aliases[Alias.CHAMPION].version
    if standing.previous_champion is not None:
        wanted[_PREVIOUS_ALIAS] = standing.previous_champion.version
    return wanted


def lineage_tags(version: ModelVersion) -> dict[str, str]:
    """Return the tags that tie a registered version to its origin."""
    return {
        VERSION_TAG: version.version,
        "artifact.sha256": version.sha256,
        "artifact.bytes": str(version.size_bytes),
        "gguf.ftype": version.quantisation,
        "dataset.sha256": version.dataset_sha256,
        "config.sha256": version.config_sha256,
        "manifest.sha256": version.manifest_sha256,
        "git.commit": version.code_commit or "",
        "seed": str(version.parameters.get("seed", "")),
    } | version.lineage


def state_tags(standing: Standing, version: str) -> dict[str, str]:
    """Return the tags that say where a version is in its life, in both vocabularies."""
    state = standing.state(version)
    tags = {"state": state.value, "lifecycle": state.lifecycle}
    gates = standing.gates.get(standing.versions[version].sha256)
    if gates:
        tags |= {"gate.verdict": gates[-1].verdict.value, "gate.report": gates[-1].report_sha256}
    return tags
