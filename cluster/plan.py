"""What a deployment would do, before it does it.

`make_plan` is a pure function of the running state and the new config file. It says for every
application and deployment whether it is added, deleted, restarted, reconfigured in place or left
alone, and which changed line of the file is the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cluster.serve_rules import (
    CLUSTER_OPTIONS,
    Config,
    Effect,
    app_changes,
    app_fingerprint,
    deployment_changes,
)


class Action(StrEnum):
    """What happens to an application or a deployment."""

    NONE = "none"
    CONTROLLER = "controller"
    SCALE = "scale"
    RECONFIGURE = "reconfigure"
    RESTART = "restart"
    ADDED = "added"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningApp:
    """An application as the cluster has it."""

    config: Config | None
    """Entry of the last deployed file; None if it was not deployed from a file."""
    deployments: Mapping[str, Config] = field(default_factory=dict)
    """Effective options by deployment name, those from code included."""
    status: str = "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What the cluster runs now."""

    apps: Mapping[str, RunningApp] = field(default_factory=dict)
    cluster: Config = field(default_factory=dict)
    """Options that were fixed when Serve started, as far as it reports them."""

    @classmethod
    def from_config(cls, config: Config) -> "Running":
        """Describe a cluster by the file that it was deployed from."""
        return cls(
            apps={app["name"]: RunningApp(config=app) for app in config.get("applications") or []},
            cluster={key: config[key] for key in CLUSTER_OPTIONS if key in config},
        )

    @classmethod
    def from_api(cls, details: Mapping[str, Any]) -> "Running":
        """Read the answer of Serve's `GET /api/serve/applications/`."""
        apps = {
            name: RunningApp(
                config=app.get("deployed_app_config"),
                deployments={
                    deployment: info.get("deployment_config", {})
                    for deployment, info in app.get("deployments", {}).items()
                },
                status=app.get("status", "RUNNING"),
            )
            for name, app in (details.get("applications") or {}).items()
        }
        cluster = {key: details[key] for key in CLUSTER_OPTIONS if details.get(key)}
        return cls(apps=apps, cluster=cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """What happens to one deployment, and why."""

    name: str
    action: Action
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppPlan:
    """What happens to one application; its action is the strongest of its deployments."""

    name: str
    action: Action
    reasons: tuple[str, ...] = ()
    deployments: tuple[DeploymentPlan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a deployment would do."""

    apps: tuple[AppPlan, ...]
    warnings: tuple[str, ...] = ()

    @property
    def changes_anything(self) -> bool:
        """Whether anything at all would happen."""
        return any(app.action is not Action.NONE for app in self.apps)


def make_plan(running: Running, new: Config) -> Plan:
    """Compare what runs with a new config file.

    Args:
        running: What the cluster runs now.
        new: The parsed file, valid for Serve.
    """
    wanted = {app["name"]: app for app in new.get("applications") or []}
    apps = [_plan_app(name, running.apps.get(name), app) for name, app in wanted.items()]
    for name, live in running.apps.items():
        if name in wanted:
            continue
        if live.config is None:
            # Applications of `serve.run` are not Serve's to delete when a file is deployed.
            reason = "was not deployed from a file, so a file does not delete it"
            apps.append(AppPlan(name=name, action=Action.NONE, reasons=(reason,)))
        else:
            apps.append(_deleted(name, live))
    return Plan(apps=tuple(apps), warnings=tuple(_cluster_warnings(running, new)))


def _plan_app(name: str, live: RunningApp | None, new: Config) -> AppPlan:
    listed: dict[str, Config] = {item["name"]: item for item in new.get("deployments") or []}
    if live is None or live.config is None:
        reason = "not running yet" if live is None else "replaces one not deployed from a file"
        added = tuple(DeploymentPlan(name=key, action=Action.ADDED) for key in listed)
        return AppPlan(name=name, action=Action.ADDED, reasons=(reason,), deployments=added)

    reasons = {
        key: effect
        for key, effect in app_changes(live.config, new).items()
        if key != "route_prefix"
    }
    base = max(reasons.values(), default=Effect.NONE)
    why = [f"{key}: {effect.label}" for key, effect in reasons.items()]
    if app_fingerprint(live.config) != app_fingerprint(new) and base is not Effect.RESTART:
        base = Effect.RESTART
        why.append("a block that belongs to the application's code version changed: restart")
    if "route_prefix" in app_changes(live.config, new):
        # Only the ingress deployment has a route, and which one that is stands in code.
        base = max(base, Effect.RECONFIGURE)
        why.append("route_prefix: reconfigure of the ingress deployment")
    if live.status == "DEPLOY_FAILED":
        base = Effect.RESTART
        why.append("its last deployment failed, so Serve builds it anew: restart")

    before: dict[str, Config] = {
        item["name"]: item for item in live.config.get("deployments") or []
    }
    names = list(dict.fromkeys([*live.deployments, *before, *listed]))
    deployments = tuple(
        _plan_deployment(
            key, before.get(key, {}), listed.get(key, {}), live.deployments.get(key), base
        )
        for key in names
    )
    strongest = max(
        (_STRENGTH[item.action] for item in deployments), default=_STRENGTH[_ACTIONS[base]]
    )
    action = max(_ACTIONS[base], _BY_STRENGTH[strongest], key=_STRENGTH.__getitem__)
    return AppPlan(name=name, action=action, reasons=tuple(why), deployments=deployments)


def _plan_deployment(
    name: str, old: Config, new: Config, effective: Config | None, base: Effect
) -> DeploymentPlan:
    changes = deployment_changes(old, new, effective)
    effect = max([base, *changes.values()])
    reasons = [
        f"{key}: {what.label}" + ("" if key in new else " (the value in code takes over)")
        for key, what in changes.items()
    ]
    if base is not Effect.NONE and base >= effect and not changes:
        reasons.append("because of its application")
    return DeploymentPlan(name=name, action=_ACTIONS[effect], reasons=tuple(reasons))


def _deleted(name: str, live: RunningApp) -> AppPlan:
    gone = tuple(DeploymentPlan(name=key, action=Action.DELETED) for key in live.deployments)
    reason = "not in the file: Serve deletes what a file no longer names"
    return AppPlan(name=name, action=Action.DELETED, reasons=(reason,), deployments=gone)


def _cluster_warnings(running: Running, new: Config) -> list[str]:
    warnings = []
    for key in CLUSTER_OPTIONS:
        wanted, fixed = new.get(key), running.cluster.get(key)
        if wanted is None or fixed is None:
            continue
        if isinstance(wanted, Mapping) and isinstance(fixed, Mapping):
            differing = sorted(
                name for name in wanted if name in fixed and wanted[name] != fixed[name]
            )
            where = ", ".join(f"{key}.{name}" for name in differing)
        else:
            where = key if wanted != fixed else ""
        if where:
            warnings.append(
                f"{where} is fixed when Serve starts and stays as it is; "
                "to change it: carril down, then carril up"
            )
    return warnings


_ACTIONS: dict[Effect, Action] = {
    Effect.NONE: Action.NONE,
    Effect.CONTROLLER: Action.CONTROLLER,
    Effect.SCALE: Action.SCALE,
    Effect.RECONFIGURE: Action.RECONFIGURE,
    Effect.RESTART: Action.RESTART,
}
_STRENGTH: dict[Action, int] = {action: effect.value for effect, action in _ACTIONS.items()}
_BY_STRENGTH: dict[int, Action] = {effect.value: action for effect, action in _ACTIONS.items()}
