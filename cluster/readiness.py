"""Does every replica run the new config yet, and if not, why?

Serve calls an application RUNNING once its replicas have been told; a model may still be loading,
or may have been refused with the old one serving on. The gateway's `/readyz` knows. Both answers
are read here into one verdict; this module asks nobody itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.validate import ServeConfig

_SERVING = ("ready", "idle", "waking")
"""States of a replica that takes requests; one that sleeps has loaded its model before."""
_INVALID = "invalid"
"""Reported as the config hash of a replica that refused its user_config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far a rollout is."""

    done: bool = False
    failure: str | None = None
    """Why it will not succeed; None while it may."""
    waiting_for: tuple[str, ...] = ()
    """What is missing, for the progress line."""


def judge(
    config: ServeConfig, details: Mapping[str, Any], readyz: Mapping[str, Any] | None
) -> Verdict:
    """Compare what runs with what was asked for.

    Args:
        config: The deployed config.
        details: Answer of Serve's REST API, taken after the deployment.
        readyz: JSON of the gateway's `/readyz`; None if it does not answer yet.
    """
    serve = _judge_serve(config, details)
    if serve.failure is not None or serve.waiting_for or not config.gateways:
        return serve
    if readyz is None:
        return Verdict(waiting_for=("gateway",))
    return _judge_readyz(config, readyz)


def _judge_serve(config: ServeConfig, details: Mapping[str, Any]) -> Verdict:
    apps: Mapping[str, Any] = details.get("applications") or {}
    waiting: list[str] = []
    for name in config.app_names:
        app = apps.get(name)
        if app is None:
            waiting.append(f"{name}: not there yet")
            continue
        status = app.get("status")
        if status == "DEPLOY_FAILED":
            return Verdict(failure=f"application {name!r} failed: {app_message(app)}")
        if status != "RUNNING":
            waiting.append(f"{name}: {str(status).lower()}{_replica_counts(app)}")
    leaving = [name for name in apps if name not in config.app_names and _from_file(apps[name])]
    waiting += [f"{name}: being deleted" for name in leaving]
    return Verdict(done=not waiting, waiting_for=tuple(waiting))


def _judge_readyz(config: ServeConfig, readyz: Mapping[str, Any]) -> Verdict:
    expected = config.expected_hashes()
    gateway_hash = next(expected[name] for name in config.gateways)
    waiting: list[str] = []
    for replica in _items(readyz.get("gateways")):
        if replica.get("error"):
            return Verdict(failure=_refused("the gateway", replica))
        if replica.get("config") != gateway_hash:
            waiting.append(f"gateway {replica.get('replica')}: old config")
    if readyz.get("config") != gateway_hash and not waiting:
        waiting.append("gateway: old config")
    variants: Mapping[str, Any] = readyz.get("variants") or {}
    for gateway in config.gateways.values():
        for variant, target in gateway.variants.items():
            replicas = _items((variants.get(variant) or {}).get("replicas"))
            if not replicas:
                waiting.append(f"{target.app}: no replica yet")
            for replica in replicas:
                # An error that belongs to an earlier config does not count against this one.
                current = replica.get("wanted_config") in (expected[target.app], _INVALID)
                if replica.get("error") and current:
                    return Verdict(failure=_refused(f"application {target.app!r}", replica))
                if replica.get("config") != expected[target.app]:
                    waiting.append(f"{target.app}: old config")
                elif replica.get("state") not in _SERVING:
                    waiting.append(f"{target.app}: {replica.get('state')}")
    done = not waiting and readyz.get("status") == "ready"
    if not done and not waiting:
        waiting.append(f"gateway: {readyz.get('status')}")
    return Verdict(done=done, waiting_for=tuple(dict.fromkeys(waiting)))


def app_message(app: Mapping[str, Any]) -> str:
    """Return what Serve says about a failed application, with its deployments' messages."""
    texts = [str(app.get("message") or "")]
    for name, deployment in (app.get("deployments") or {}).items():
        if deployment.get("status") in ("UNHEALTHY", "DEPLOY_FAILED") and deployment.get("message"):
            texts.append(f"{name}: {deployment['message']}")
    return "\n".join(text.strip() for text in texts if text.strip()) or "no message"


def _refused(who: str, replica: Mapping[str, Any]) -> str:
    kept = "keeps the old one" if replica.get("config") else "has no other"
    return f"{who} refuses the new config and {kept}: {replica['error']}"


def _replica_counts(app: Mapping[str, Any]) -> str:
    replicas = [
        replica
        for deployment in (app.get("deployments") or {}).values()
        for replica in deployment.get("replicas") or []
    ]
    running = sum(replica.get("state") == "RUNNING" for replica in replicas)
    return f" ({running} of {len(replicas)} replicas)" if replicas else ""


def _from_file(app: Mapping[str, Any]) -> bool:
    return app.get("deployed_app_config") is not None or app.get("source") == "declarative"


def _items(value: object) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
