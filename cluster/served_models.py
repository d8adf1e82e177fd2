"""Is what the registry calls champion what the gateway serves? Pure comparison of two records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.registry.records import Alias
from experiments.registry.standing import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCheck:
    """One model's champion or challenger, and what is served."""

    model: str
    alias: Alias
    version: str
    sha256: str
    expected_at: str | None
    """Variant that it was deployed to; None if the promotion was only recorded."""
    served_by: tuple[str, ...]
    """Variants all of whose replicas run it."""

    @property
    def ok(self) -> bool:
        """Whether it is served where it was put, or anywhere if that is not known."""
        if self.expected_at is None:
            return bool(self.served_by)
        return self.expected_at in self.served_by


def check_served(
    standings: Mapping[str, Standing], readyz: Mapping[str, Any]
) -> tuple[ServedCheck, ...]:
    """Compare champions and challengers with what the replicas report.

    Args:
        standings: What the ledger says.
        readyz: JSON of the gateway's `/readyz`.
    """
    digests = _digests(readyz)
    checks = []
    for name, standing in sorted(standings.items()):
        for alias in (Alias.CHAMPION, Alias.CHALLENGER):
            ref = standing.aliases.get(alias)
            if ref is None:
                continue
            checks.append(
                ServedCheck(
                    model=name,
                    alias=alias,
                    version=ref.version,
                    sha256=ref.sha256,
                    expected_at=_expected_at(standing, alias),
                    served_by=tuple(v for v, found in digests.items() if found == {ref.sha256}),
                )
            )
    return tuple(checks)


def served_digests(readyz: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by variant the hashes that its replicas report."""
    return {variant: sorted(found) for variant, found in _digests(readyz).items()}


def _expected_at(standing: Standing, alias: Alias) -> str | None:
    entry = standing.moves.get(alias)
    return entry.deployed.variant if entry is not None and entry.deployed is not None else None


def _digests(readyz: Mapping[str, Any]) -> dict[str, set[str]]:
    return {
        str(variant): {
            str(replica.get("model_sha256") or "nothing") for replica in entry.get("replicas") or []
        }
        for variant, entry in (readyz.get("variants") or {}).items()
    }
