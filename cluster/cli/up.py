"""`carril up`: from a config file to a server that answers."""

import os
from pathlib import Path

from cluster.cli.console import Step, command_name, note, out, step, warn
from cluster.errors import CommandError
from cluster.home import carril_home
from cluster.local_cluster import ClusterRecord, start_head, stop_cluster
from cluster.memory import memory_need
from cluster.preflight import check_memory, check_ports
from cluster.process_tree import describe
from cluster.ray_environment import Ports
from cluster.readiness import Verdict
from cluster.rollout import check, deploy_and_wait
from cluster.serve_api import ServeApi
from cluster.validate import ServeConfig, check_files, load_serve_config

_MIN_LOGICAL_CPUS = 4
"""Replicas reserve fractions of CPUs; on a small machine they must still all find a place."""


def run(
    config_path: Path,
    *,
    port: int | None,
    dashboard_port: int,
    ray_port: int,
    num_cpus: int | None,
    timeout_s: float,
    authenticate: bool,
    haproxy: bool,
    keep: bool,
) -> None:
    """Start a local cluster, deploy the config, and return once it is ready.

    Raises:
        CommandError: If anything is in the way; nothing is left running then, unless `keep`.
        ConfigError: If the config is not safe to deploy.
    """
    home = carril_home()
    config = load_serve_config(config_path)
    with step("Checking model files") as progress:
        sizes = check_files(config, on_file=progress.update)
    host, config_port = config.http_options()
    http_port = port or config_port
    config = _with_port(config, http_port)
    if host not in ("127.0.0.1", "localhost", "::1"):
        warn(f"http_options.host is {host!r}: the API is open to the network")

    record = ClusterRecord.load(home)
    if record is not None and record.is_alive():
        _update_running(config, record, timeout_s)
        return
    if record is not None:
        note("a cluster of an earlier start is gone; cleaning up after it")
        stop_cluster(home, record)

    check_ports([("http", http_port), ("dashboard", dashboard_port), ("gcs", ray_port)])
    memory_warning = check_memory(memory_need(config, sizes))
    if memory_warning:
        warn(memory_warning)
    with step("Starting Ray"):
        record = start_head(
            home=home,
            http_url=f"http://127.0.0.1:{http_port}",
            ports=Ports.choose(http=http_port, dashboard=dashboard_port, gcs=ray_port),
            num_cpus=num_cpus or max(os.cpu_count() or 1, _MIN_LOGICAL_CPUS),
            authenticate=authenticate,
            haproxy=haproxy,
            http_host=host,
        )
    if haproxy and not record.haproxy:
        warn("this platform has no HAProxy; Serve's own, slower proxy is used")
    try:
        seconds = _deploy(config, record, timeout_s)
    except BaseException as error:
        _after_failure(home, record, keep=keep, error=error)
        raise
    _tell_ready(config, record, f"ready after {seconds:.0f} s")


def _update_running(config: ServeConfig, record: ClusterRecord, timeout_s: float) -> None:
    with ServeApi(record.dashboard_url, token=record.token()) as api:
        verdict = check(api, config, http_url=record.http_url)
    if verdict.done:
        _tell_ready(config, record, "already running with this config")
        return
    note("already running, with another config; deploying this one")
    seconds = _deploy(config, record, timeout_s)
    _tell_ready(config, record, f"config deployed after {seconds:.0f} s")


def _deploy(config: ServeConfig, record: ClusterRecord, timeout_s: float) -> float:
    with (
        step("Deploying") as progress,
        ServeApi(record.dashboard_url, token=record.token()) as api,
    ):
        return deploy_and_wait(
            api,
            config,
            http_url=record.http_url,
            timeout_s=timeout_s,
            on_progress=lambda verdict: show(progress, verdict),
        )


def show(progress: Step, verdict: Verdict) -> None:
    """Show what a rollout is waiting for."""
    progress.update(", ".join(verdict.waiting_for))


def _after_failure(home: Path, record: ClusterRecord, *, keep: bool, error: BaseException) -> None:
    logs = f"{record.temp_dir}/session_latest/logs/serve"
    if keep:
        note(f"the cluster was kept for inspection; logs: {logs}; end it with: carril down")
        return
    stop_cluster(home, record)
    if isinstance(error, CommandError):
        note(f"nothing was left running; logs: {logs}; with --keep the cluster stays up")


def _tell_ready(config: ServeConfig, record: ClusterRecord, how: str) -> None:
    used = sum(item.rss_bytes - item.shared_bytes for item in describe(record.members()))
    note(f"carril is {how}: {record.http_url}  (dashboard {record.dashboard_url})")
    note(f"memory of all processes: {used / 2**30:.1f} GiB; stop with: {command_name()} down")
    served = [name for gateway in config.gateways.values() for name in gateway.models]
    if not served:
        return
    text_model = next((name for name in served if name.endswith(":text")), served[0])
    note("\nTry:")
    out.print(
        f"curl {record.http_url}/v1/chat/completions -H 'content-type: application/json' "
        f'-H \'x-session-id: yo\' -d \'{{"model": "{served[0]}", "messages": '
        '[{"role": "user", "content": "Klk, busco una yipeta pa la familia"}]}\'\n'
        f"{command_name()} chat --model {text_model}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _with_port(config: ServeConfig, port: int) -> ServeConfig:
    options = {**(config.raw.get("http_options") or {}), "port": port}
    raw = {**config.raw, "http_options": options}
    return ServeConfig(path=config.path, raw=raw, gateways=config.gateways, models=config.models)
