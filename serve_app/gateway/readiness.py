"""The body of /readyz: what serves, what was asked for, and why they differ."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.gateway.variants import VariantClient
from serve_app.model.calls import ModelState, ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport:
    """One gateway replica."""

    replica: str
    config: str
    """Hash of the configuration in force; empty before the first."""
    error: str | None
    """Why a newer configuration was refused."""


Status = Literal["ready", "degraded", "not_ready"]
_ANSWERING: tuple[ReplicaState, ...] = ("ready", "waking", "idle")
"""States in which a replica takes requests, best first."""


def readiness_body(
    gateways: Sequence[GatewayReport],
    variants: Sequence[VariantClient],
    *,
    spare: Collection[str] = (),
) -> dict[str, Any]:
    """Summarise: `not_ready` if a variant cannot answer, `degraded` if something wanted failed.

    Args:
        gateways: Reports of all replicas.
        variants: All variants.
        spare: Variants that answer no users, only copies: without them the gateway is degraded.
    """
    configs = {gateway.config for gateway in gateways}
    return {
        "status": _status(gateways, variants, spare),
        "config": next(iter(configs)) if len(configs) == 1 else "",
        "gateways": [
            {"replica": g.replica, "config": g.config, "error": g.error} for g in gateways
        ],
        "variants": {
            variant.name: {
                "app": variant.app,
                "state": _variant_state(variant.states),
                "replicas": [_replica(state) for state in variant.states],
            }
            for variant in variants
        },
    }


def _status(
    gateways: Sequence[GatewayReport], variants: Sequence[VariantClient], spare: Collection[str]
) -> Status:
    dead = {v.name for v in variants if _variant_state(v.states) == "not_ready"}
    if not variants or dead - set(spare):
        return "not_ready"
    troubled = (
        bool(dead)
        or any(gateway.error for gateway in gateways)
        or any(state.error or state.state not in _ANSWERING for v in variants for state in v.states)
    )
    return "degraded" if troubled else "ready"


def _variant_state(states: Sequence[ModelState]) -> str:
    """Return the best that a variant's replicas offer: one that sleeps wakes for a request."""
    found = {state.state for state in states}
    return next((state for state in _ANSWERING if state in found), "not_ready")


def _replica(state: ModelState) -> dict[str, Any]:
    identity = state.identity
    return {
        "replica": state.replica,
        "state": state.state,
        "engine": identity.engine if identity else None,
        "model": identity.model_name if identity else None,
        "model_sha256": identity.model_sha256 if identity else None,
        "intent_prior_sha256": identity.prior_sha256 if identity else None,
        "config": identity.config_hash if identity else "",
        "wanted_config": state.config_hash,
        "error": state.error,
    }
