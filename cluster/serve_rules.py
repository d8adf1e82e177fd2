"""What Ray Serve 2.60 does to replicas when an option of a Serve config changes.

Serve knows these rules only in code: `get_app_code_version` (a hash over some fields; a new hash
restarts every replica of the application), the update type of each deployment option, and
`DeploymentVersion.requires_actor_restart`. They are written down here once, as data; an integration
test compares them with the installed Ray and with what a real cluster did.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any


class Effect(IntEnum):
    """What happens to running replicas, from nothing to the worst."""

    NONE = 0
    CONTROLLER = 1
    """Only Serve's controller takes note; replicas are not told."""
    SCALE = 2
    """Replicas start or stop; those that stay are not touched."""
    RECONFIGURE = 3
    """Replicas are told in place; model and connections stay."""
    RESTART = 4
    """Every replica is replaced; a model is loaded again."""

    @property
    def label(self) -> str:
        """Lower-case name, as printed."""
        return self.name.lower()


Config = Mapping[str, Any]

_UNSET = object()

_DEPLOYMENT_EFFECTS: dict[str, Effect] = {
    "num_replicas": Effect.SCALE,
    "max_queued_requests": Effect.CONTROLLER,
    "rolling_update_percentage": Effect.CONTROLLER,
    "max_surge_percent": Effect.CONTROLLER,
    "graceful_shutdown_timeout_s": Effect.CONTROLLER,
    "health_check_period_s": Effect.CONTROLLER,
    "health_check_timeout_s": Effect.CONTROLLER,
    "user_config": Effect.RECONFIGURE,
    "max_ongoing_requests": Effect.RECONFIGURE,
    "backpressure_config": Effect.RECONFIGURE,
    "graceful_shutdown_wait_loop_s": Effect.RECONFIGURE,
    "logging_config": Effect.RECONFIGURE,
    "autoscaling_config": Effect.SCALE,
    "request_router_config": Effect.RESTART,
    "deployment_actors": Effect.RESTART,
    "ray_actor_options": Effect.RESTART,
    "placement_group_bundles": Effect.RESTART,
    "placement_group_strategy": Effect.RESTART,
    "placement_group_bundle_label_selector": Effect.RESTART,
    "max_replicas_per_node": Effect.RESTART,
    "gang_scheduling_config": Effect.RESTART,
}
"""Effect of each deployment option, except where `_nested_effect` looks deeper."""

_AUTOSCALING_TOLD_TO_REPLICAS = frozenset({"metrics_interval_s", "look_back_period_s"})

_APP_EFFECTS: dict[str, Effect] = {
    "import_path": Effect.RESTART,
    "runtime_env": Effect.RESTART,
    "args": Effect.RESTART,
    "autoscaling_policy": Effect.RESTART,
    "logging_config": Effect.RECONFIGURE,
    "route_prefix": Effect.RECONFIGURE,
    "external_scaler_enabled": Effect.CONTROLLER,
}

_APP_DEFAULTS: dict[str, Any] = {"runtime_env": {}, "args": {}, "route_prefix": "/"}

CLUSTER_OPTIONS = ("proxy_location", "http_options", "grpc_options", "controller_options")
"""Fixed when Serve starts; a later change in the file has no effect."""

KNOWN_CLUSTER_KEYS = frozenset(
    {*CLUSTER_OPTIONS, "applications", "logging_config", "tracing_config", "target_capacity"}
)
KNOWN_APP_KEYS = frozenset({*_APP_EFFECTS, "name", "deployments"})
KNOWN_DEPLOYMENT_KEYS = frozenset({*_DEPLOYMENT_EFFECTS, "name"})


def app_fingerprint(app: Config) -> str:
    """Return a hash that changes exactly when Serve's code version of the application does.

    Args:
        app: One entry of `applications`.
    """
    deployments: Sequence[Config] = app.get("deployments") or []
    parts = {
        "import_path": app.get("import_path"),
        "runtime_env": app.get("runtime_env") or {},
        "args": app.get("args") or {},
        "autoscaling_policy": app.get("autoscaling_policy"),
        # One entry per deployment that has the block, even where the block names no policy: so
        # adding `autoscaling_config: {min_replicas: 2}` restarts the application.
        "policies": [block.get("policy") for block in _dicts(deployments, "autoscaling_config")],
        "routers": _dicts(deployments, "request_router_config"),
        "actors": [
            deployment["deployment_actors"]
            for deployment in deployments
            if isinstance(deployment.get("deployment_actors"), list)
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def app_changes(old: Config, new: Config) -> dict[str, Effect]:
    """Return the changed application-level options and what each does."""
    return {
        key: effect
        for key, effect in _APP_EFFECTS.items()
        if old.get(key, _APP_DEFAULTS.get(key)) != new.get(key, _APP_DEFAULTS.get(key))
    }


def deployment_changes(
    old: Config, new: Config, effective: Config | None = None
) -> dict[str, Effect]:
    """Return the changed options of a deployment and what each does.

    Args:
        old: The deployment's entry in the running config, `{}` if it has none.
        new: The same in the new config.
        effective: Values the running deployment really has, those from code included. Setting an
            option to the value that it has anyway changes nothing.

    Returns:
        Effect by option. For an option that is no longer set the value in code takes over, which is
        unknown here, so the effect is the worst that it can be.
    """
    changes: dict[str, Effect] = {}
    for key in _DEPLOYMENT_EFFECTS:
        before, after = old.get(key, _UNSET), new.get(key, _UNSET)
        if before == after:
            continue
        if before is _UNSET and effective is not None and effective.get(key, _UNSET) == after:
            # A block enters the application's fingerprint by being there at all.
            effect = Effect.RESTART if key in _FINGERPRINTED else Effect.NONE
        else:
            effect = _nested_effect(key, before, after)
        if effect is not Effect.NONE:
            changes[key] = effect
    return changes


def unknown_keys(config: Config) -> list[str]:
    """Return the keys of a Serve config that Serve would silently ignore, as paths."""
    unknown = [key for key in config if key not in KNOWN_CLUSTER_KEYS]
    for app in config.get("applications") or []:
        name = app.get("name", "?")
        unknown += [f"applications.{name}.{key}" for key in app if key not in KNOWN_APP_KEYS]
        for deployment in app.get("deployments") or []:
            path = f"applications.{name}.deployments.{deployment.get('name', '?')}"
            unknown += [f"{path}.{key}" for key in deployment if key not in KNOWN_DEPLOYMENT_KEYS]
    return unknown


_FINGERPRINTED = frozenset({"autoscaling_config", "request_router_config", "deployment_actors"})


def _nested_effect(key: str, before: object, after: object) -> Effect:
    if key == "num_replicas" and "auto" in (before, after):
        return Effect.RECONFIGURE
    if key != "autoscaling_config":
        return _DEPLOYMENT_EFFECTS[key]
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return Effect.RESTART
    if before.get("policy") != after.get("policy"):
        return Effect.RESTART
    told = any(
        before.get(name, _UNSET) != after.get(name, _UNSET)
        for name in _AUTOSCALING_TOLD_TO_REPLICAS
    )
    return Effect.RECONFIGURE if told else Effect.SCALE


def _dicts(deployments: Sequence[Config], key: str) -> list[dict[str, Any]]:
    return [value for item in deployments if isinstance(value := item.get(key), dict)]
