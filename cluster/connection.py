"""Which cluster a command talks to: options first, then the environment, then the local record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import infrastructure
from cluster.home import carril_home, ray_token_path
from cluster.local_cluster import ClusterRecord

DEFAULT_DASHBOARD_URL = "http://127.0.0.1:8265"
DEFAULT_HTTP_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where a cluster answers."""

    dashboard_url: str
    http_url: str
    token: str | None
    record: ClusterRecord | None
    """The local cluster, if it is the one that is meant."""


def resolve(
    *,
    dashboard_url: str | None = None,
    http_url: str | None = None,
    guess: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Connection:
    """Find the cluster.

    Args:
        dashboard_url: Given on the command line, e.g. of a cluster elsewhere.
        http_url: Given on the command line.
        guess: Whether to take Ray's default address where no cluster is known. A command that
            changes something must not: it might change a stranger's.
        environ: `RAY_DASHBOARD_ADDRESS` and `CARRIL_URL` come second.

    Raises:
        CommandError: If no cluster is known and none may be guessed.
    """
    record = ClusterRecord.load(carril_home(environ))
    chosen = dashboard_url or environ.get("RAY_DASHBOARD_ADDRESS") or None
    if record is not None and chosen not in (None, record.dashboard_url):
        record = None
    if record is None and chosen is None and not guess:
        raise infrastructure(
            f"no cluster was started here ({carril_home(environ)})",
            "start one with: carril up; or name one with --address",
        )
    local_dashboard = record.dashboard_url if record else DEFAULT_DASHBOARD_URL
    local_http = record.http_url if record else DEFAULT_HTTP_URL
    return Connection(
        dashboard_url=chosen or local_dashboard,
        http_url=(http_url or environ.get("CARRIL_URL") or local_http).rstrip("/"),
        token=_token(record, environ),
        record=record,
    )


def _token(record: ClusterRecord | None, environ: Mapping[str, str]) -> str | None:
    if environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"]
    if record is not None:
        return record.token()
    path: Path = ray_token_path(environ)
    return path.read_text("ascii").strip() if path.is_file() else None
