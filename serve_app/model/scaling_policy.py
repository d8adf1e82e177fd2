"""Serve's side of autoscaling: named by `autoscaling_config.policy.policy_function` in the config.

Serve copies this module into its controller and calls `scale` there, every 0.1 s. Thresholds come
with the replicas' reports, not as arguments: arguments of a policy are part of the application's
version, and changing them would restart every replica.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

_FIELDS = ("running", "waiting", "slots", "kv_used", "kv_capacity", "service_s")
_TARGETS = ("target_wait_s", "kv_high", "low_rate")


def scale(ctx: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """Return the wanted number of replicas; Serve applies bounds and delays to it."""
    # Imported here: what is outside the function travels with it, these come from the installation.
    from serve_app.model.autoscaling import ReplicaLoad, ScalingTargets, wanted_replicas

    aimed_at = ctx.target_num_replicas
    reports = _by_replica(ctx.aggregated_metrics or {})
    if not reports:
        return aimed_at, {}
    newest = reports[-1]
    wanted = wanted_replicas(
        [ReplicaLoad(**{name: report[name] for name in _FIELDS}) for report in reports],
        float(ctx.total_queued_requests),
        ScalingTargets(**{name: newest[name] for name in _TARGETS}),
        aimed_at=aimed_at,
    )
    if wanted.replicas != aimed_at and ctx.policy_state.get("told") != wanted.replicas:
        logging.getLogger("ray.serve").info(
            "carril: %s has %d replicas, wants %d: %s",
            ctx.app_name,
            aimed_at,
            wanted.replicas,
            wanted.reason,
        )
    return wanted.replicas, {"told": wanted.replicas}


def _by_replica(metrics: Mapping[str, Mapping[Any, float]]) -> list[dict[str, float]]:
    """Turn values by metric and replica into complete reports, one per replica."""
    names = (*_FIELDS, *_TARGETS)
    replicas = metrics.get("slots", {})
    return [
        {name: float(metrics[name][replica]) for name in names}
        for replica in replicas
        if all(replica in metrics.get(name, {}) for name in names)
    ]
