"""What runs, as one document: applications, replicas, models, split, memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.plan_experiments import gateway_config
from cluster.process_tree import ProcessInfo
from serve_app.config import GatewayConfig
from serve_app.errors import ConfigError


def status_document(
    *,
    details: Mapping[str, Any] | None,
    readyz: Mapping[str, Any] | None,
    processes: Sequence[ProcessInfo],
    http_url: str,
    dashboard_url: str,
) -> dict[str, Any]:
    """Put the answers of Serve, the gateway and the operating system together.

    Args:
        details: Answer of Serve's REST API; None if no dashboard answers.
        readyz: JSON of `/readyz`; None if no gateway answers.
        processes: Processes of the local cluster; empty for one elsewhere.
        http_url: Address of the API.
        dashboard_url: Address of the dashboard.
    """
    apps: Mapping[str, Any] = (details or {}).get("applications") or {}
    config = _gateway_config(apps)
    return {
        "running": details is not None,
        "http_url": http_url,
        "dashboard_url": dashboard_url,
        "status": (readyz or {}).get("status", "down" if details is None else "no gateway"),
        "config": (readyz or {}).get("config"),
        "applications": [_application(name, app) for name, app in apps.items()],
        "variants": _variants(readyz),
        "experiments": _experiments(config),
        "shadows": _shadows(config),
        "memory_bytes": sum(item.rss_bytes - item.shared_bytes for item in processes),
        "processes": [
            {"pid": item.pid, "name": item.name, "memory_bytes": item.rss_bytes - item.shared_bytes}
            for item in sorted(processes, key=lambda item: -item.rss_bytes)
        ],
    }


def _application(name: str, app: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "status": app.get("status"),
        "message": app.get("message") or None,
        "route": app.get("route_prefix"),
        "deployments": [
            {
                "name": deployment_name,
                "status": deployment.get("status"),
                "message": deployment.get("message") or None,
                "wanted_replicas": deployment.get("target_num_replicas"),
                "replicas": [
                    {key: replica.get(key) for key in ("replica_id", "state", "pid", "actor_id")}
                    for replica in deployment.get("replicas") or []
                ],
            }
            for deployment_name, deployment in (app.get("deployments") or {}).items()
        ],
    }


def _variants(readyz: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    variants: Mapping[str, Any] = (readyz or {}).get("variants") or {}
    return [
        {"name": name, "app": variant.get("app"), "replicas": variant.get("replicas") or []}
        for name, variant in variants.items()
    ]


def _gateway_config(apps: Mapping[str, Any]) -> GatewayConfig | None:
    for app in apps.values():
        try:
            config = gateway_config(app.get("deployed_app_config") or {})
        except ConfigError:
            continue
        if config is not None:
            return config
    return None


def _experiments(config: GatewayConfig | None) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "control": experiment.control,
            "allocation": {k: float(v) for k, v in experiment.allocation.items()},
        }
        for name, experiment in (config.experiments if config else {}).items()
    ]


def _shadows(config: GatewayConfig | None) -> list[dict[str, Any]]:
    return [
        {"name": name, "variant": shadow.variant, "of": shadow.of, "percent": shadow.percent}
        for name, shadow in (config.shadow if config else {}).items()
    ]
