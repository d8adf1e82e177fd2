"""Sending alerts: checked address, signature, retries with backoff. The only module that calls out.

A delivery that fails is reported, never raised: an alert must not stop what it is about.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from experiments.alerts.address import RefusedAddress, UnresolvedHost, check_address
from experiments.alerts.alert import Alert
from experiments.alerts.config import AlertConfig, AlertLevel, Channel
from experiments.alerts.payloads import sign, slack_body, teams_body, webhook_body

logger = logging.getLogger(__name__)

_MAX_WAIT_S = 60.0
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one alert on one channel."""

    channel: str
    delivered: bool
    attempts: int
    error: str | None = None


def wants(channel: Channel, level: AlertLevel) -> bool:
    """Return whether a channel is told of news of a level."""
    return channel.min_level == "warning" or level == "critical"


def unreachable(
    config: AlertConfig, *, environ: Mapping[str, str] = os.environ
) -> tuple[Delivery, ...]:
    """Return the channels that no alert would reach, with the reason; calls nobody.

    Said when a watch begins, so that it is not the first alert that finds out. A name that cannot
    be looked up is no reason: it may be, when it matters.
    """
    found = []
    for channel in config.channels:
        try:
            for name in (channel.url_env, *([channel.secret_env] if channel.secret_env else ())):
                _required(environ, name)
            check_address(environ[channel.url_env].strip(), config)
        except KeyError as error:
            found.append(_failed(channel, 0, _not_set(error)))
        except RefusedAddress as error:
            found.append(_failed(channel, 0, str(error)))
        except UnresolvedHost:
            continue
    return tuple(found)


def deliver(
    alert: Alert,
    channel: Channel,
    config: AlertConfig,
    *,
    environ: Mapping[str, str] = os.environ,
    sleep: Callable[[float], None] = time.sleep,
) -> Delivery:
    """Send an alert to one channel.

    Args:
        alert: The news.
        channel: Where to.
        config: Allowed hosts and retries.
        environ: Has the address and the secret.
        sleep: Waits so many seconds.
    """
    try:
        url = _required(environ, channel.url_env)
        secret = _required(environ, channel.secret_env) if channel.secret_env else None
    except KeyError as error:
        return _failed(channel, 0, _not_set(error))
    body = _BODIES[channel.kind](alert)
    last = "not tried"
    for attempt in range(1, config.attempts + 1):
        wait: float | None = None
        try:
            check_address(url, config)
            status, retry_after = _post(url, body, _headers(alert, body, secret), config.timeout_s)
        except RefusedAddress as error:
            return _failed(channel, attempt, str(error))
        except (UnresolvedHost, OSError) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if 200 <= status < 300:
                return Delivery(channel=channel.name, delivered=True, attempts=attempt)
            last, wait = f"HTTP {status}", retry_after
            if status not in _RETRIED:
                return _failed(channel, attempt, last)
        if attempt < config.attempts:
            backoff = config.backoff_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
            sleep(min(_MAX_WAIT_S, backoff if wait is None else wait))
    return _failed(channel, config.attempts, last)


def _post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, float | None]:
    import httpx

    try:
        # No redirects: they would lead past the allow-list. No proxies from the environment either.
        with httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client:
            response = client.post(url, content=body, headers=dict(headers))
    except httpx.HTTPError as error:
        raise ConnectionError(f"{type(error).__name__}") from error
    return response.status_code, _seconds(response.headers.get("retry-after"))


def _headers(alert: Alert, body: bytes, secret: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json; charset=utf-8", "user-agent": "carril"}
    if secret is not None:
        timestamp = int(time.time())
        headers |= {
            "x-carril-timestamp": str(timestamp),
            "x-carril-signature": sign(body, secret=secret, timestamp=timestamp),
            "x-carril-delivery": alert.alert_id,
        }
    return headers


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None  # a date; the own backoff will do


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise KeyError(name)
    return value


def _not_set(error: KeyError) -> str:
    return f"environment variable {error.args[0]} is not set"


def _failed(channel: Channel, attempts: int, error: str) -> Delivery:
    logger.warning("alert not delivered", extra={"channel": channel.name, "reason": error})
    return Delivery(channel=channel.name, delivered=False, attempts=attempts, error=error)


_BODIES = {"slack": slack_body, "teams": teams_body, "webhook": webhook_body}
