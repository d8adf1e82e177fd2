"""Deploy a config and wait until every replica runs it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from cluster.errors import CommandError, infrastructure
from cluster.readiness import Verdict, judge
from cluster.serve_api import ServeApi
from cluster.validate import ServeConfig

_POLL_S = 0.5
_CONFIRM_S = 2.5
"""A failure must be seen this long: right after a deployment it may be that of the one before."""
_SETTLE_S = 1.0
"""Serve shows the state from before a deployment until its loop, every 0.1 s, has run."""


def deploy_and_wait(
    api: ServeApi,
    config: ServeConfig,
    *,
    http_url: str,
    timeout_s: float,
    on_progress: Callable[[Verdict], None] | None = None,
) -> float:
    """Deploy, and return after how many seconds all replicas ran the config.

    Raises:
        CommandError: If the config was refused, an application failed, or time ran out. What served
            before goes on serving.
    """
    started_s = time.monotonic()
    api.deploy(with_loopback(config.raw))
    time.sleep(_SETTLE_S)
    verdict = Verdict(waiting_for=("Ray Serve",))
    failing_since_s: float | None = None
    while time.monotonic() - started_s < timeout_s:
        verdict = check(api, config, http_url=http_url)
        if verdict.done:
            return time.monotonic() - started_s
        if verdict.failure is None:
            failing_since_s = None
        elif failing_since_s is None:
            failing_since_s = time.monotonic()
        elif time.monotonic() - failing_since_s > _CONFIRM_S:
            raise CommandError(verdict.failure)
        if on_progress is not None and verdict.waiting_for:
            on_progress(verdict)
        time.sleep(_POLL_S)
    if verdict.failure is not None:
        raise CommandError(verdict.failure)
    raise infrastructure(
        f"not ready after {timeout_s:.0f} s; still waiting for: {', '.join(verdict.waiting_for)}",
        "look at: carril status",
    )


def check(api: ServeApi, config: ServeConfig, *, http_url: str) -> Verdict:
    """Return how far the rollout of a config is.

    Raises:
        CommandError: If the cluster does not answer.
    """
    details = api.details()
    readyz = fetch_readyz(http_url) if config.gateways else None
    return judge(config, details, readyz)


def fetch_readyz(http_url: str, *, timeout_s: float = 10.0) -> dict[str, Any] | None:
    """Return the gateway's view of itself and its models, None if it does not answer."""
    try:
        response = httpx.get(f"{http_url}/readyz", timeout=timeout_s, trust_env=False)
        body = response.json()
    except (httpx.HTTPError, ValueError):
        return None
    return body if isinstance(body, dict) and "status" in body else None


def with_loopback(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose HTTP port is on loopback unless the file says otherwise.

    Serve's own default is all interfaces.
    """
    options = {"host": "127.0.0.1", **(raw.get("http_options") or {})}
    return {**raw, "http_options": options}
