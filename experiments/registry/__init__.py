"""The model registry: versions, aliases and the promotion ledger, as files that serving reads."""

from experiments.registry.records import Alias, Kind, LedgerEntry, ModelVersion, State, Verdict
from experiments.registry.standing import Standing
from experiments.registry.store import Registry

__all__ = [
    "Alias",
    "Kind",
    "LedgerEntry",
    "ModelVersion",
    "Registry",
    "Standing",
    "State",
    "Verdict",
]
