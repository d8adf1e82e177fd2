"""Servers under test: started, waited for, and stopped for sure; their logs are kept."""

import contextlib
import functools
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks import peers, python_peer
from tests.benchmarks.machine import ROOT
from tests.benchmarks.report import bench_dir
from tests.benchmarks.source import PeerError

_START_S = 300.0
_STOP_S = 60.0
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers chat completions."""

    url: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model for carril to serve, and under which name."""

    name: str
    path: Path
    n_ctx: int
    n_slots: int
    profile: Path | None = None
    options: Mapping[str, Any] | None = None
    """Of `llama_cpp`."""


@contextlib.contextmanager
def carril(variants: Sequence[Variant], *, name: str) -> Iterator[Server]:
    """Run `carril up` with these variants, as a user would; the response cache is off.

    Args:
        variants: What to serve; each is a model name of the API.
        name: Names the folder of logs.
    """
    with carril_with(carril_config(variants), name=name) as url:
        yield Server(url, variants[0].name)


@contextlib.contextmanager
def carril_with(serve_config: Mapping[str, Any], *, name: str) -> Iterator[str]:
    """Run `carril up` with a Serve configuration; yield the address of its API."""
    http, dashboard, ray = (str(free_port()) for _ in range(3))
    logs = _log_dir(name)
    # A directory of its own with a short path: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="carril-bench-") as home:
        config = Path(home) / "bench.yaml"
        config.write_text(yaml.safe_dump(dict(serve_config)), encoding="utf-8")
        env = {**os.environ, "CARRIL_HOME": home, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "cluster.cli.main"]
        up = [*command, "up", str(config), "--port", http]
        up += ["--dashboard-port", dashboard, "--ray-port", ray, "--timeout", f"{_START_S:.0f}"]
        with (logs / "carril.log").open("w", encoding="utf-8") as log:
            try:
                done = subprocess.run(
                    up, env=env, cwd=ROOT, stdout=log, stderr=log, check=False, timeout=900
                )
                if done.returncode != 0:
                    raise RuntimeError(f"carril did not start; {_tail(logs / 'carril.log')}")
                yield f"http://127.0.0.1:{http}"
            finally:
                subprocess.run(
                    [*command, "down", "--now"],
                    env=env,
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                    check=False,
                    timeout=300,
                )


def carril_config(variants: Sequence[Variant]) -> dict[str, Any]:
    """Return a Serve configuration in which every variant is a model of the API."""
    apps: list[dict[str, Any]] = []
    for variant in variants:
        model: dict[str, Any] = {
            "engine": "llama_cpp",
            "model": {"path": str(variant.path.absolute()), "sha256": sha256(variant.path)},
            "n_ctx": variant.n_ctx,
            "n_slots": variant.n_slots,
            "llama_cpp": dict(variant.options or {}),
        }
        if variant.profile:
            model["profile"] = str(variant.profile)
        apps.append(
            {
                "name": f"bench-{variant.name}",
                "route_prefix": None,
                "import_path": "serve_app.app:build_model",
                "deployments": [
                    {
                        "name": "model",
                        "max_ongoing_requests": variant.n_slots + 64,
                        "user_config": model,
                    }
                ],
            }
        )
    gateway = {
        "models": {v.name: {"variant": v.name} for v in variants},
        "variants": {v.name: {"app": f"bench-{v.name}"} for v in variants},
        "cache": {"enabled": False},
        "limits": {"deadline_s": 600, "first_token_s": 600},
    }
    apps.append(
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "serve_app.app:build_gateway",
            "deployments": [{"name": "gateway", "user_config": gateway}],
        }
    )
    return {"applications": apps}


@contextlib.contextmanager
def llama_server(path: Path, arguments: Sequence[str], *, name: str) -> Iterator[Server]:
    """Run llama-server with a model.

    Raises:
        PeerError: If it does not become healthy.
    """
    folder = peers.programs()
    port = free_port()
    command = [str(folder / "llama-server"), "-m", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-ui", "--metrics", *arguments]
    with _process(command, peers.environment(folder), _log_dir(name) / "llama-server.log") as wait:
        yield wait(f"http://127.0.0.1:{port}", "/health")


@contextlib.contextmanager
def llama_cpp_server(path: Path, *, n_ctx: int, n_threads: int, name: str) -> Iterator[Server]:
    """Run llama-cpp-python's own server with a model.

    Raises:
        PeerError: If it does not become healthy.
    """
    port = free_port()
    command = python_peer.command(path, port=port, n_ctx=n_ctx, n_threads=n_threads)
    env = peers.environment(Path(command[0]).parent)
    with _process(command, env, _log_dir(name) / "llama-cpp-server.log") as wait:
        yield wait(f"http://127.0.0.1:{port}", "/v1/models")


@contextlib.contextmanager
def _process(
    command: Sequence[str], env: Mapping[str, str], log_path: Path
) -> Iterator[Callable[[str, str], Server]]:
    with log_path.open("w", encoding="utf-8") as log:
        log.write(" ".join(command) + "\n")
        log.flush()
        process = subprocess.Popen(
            command, env=dict(env), stdout=log, stderr=log, start_new_session=True
        )

        def wait(url: str, path: str) -> Server:
            if not _healthy(url + path, process):
                raise PeerError(f"{Path(command[0]).name} did not start; {_tail(log_path)}")
            return Server(url, "any")

        try:
            yield wait
        finally:
            _stop(process)


@contextlib.contextmanager
def background(
    command: Sequence[str],
    health_url: str,
    *,
    name: str,
    log: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[None]:
    """Run a program until the block ends, which begins once its health URL says 200.

    Args:
        command: The program and its arguments.
        health_url: Asked until it answers.
        name: Names the folder of logs.
        log: Names the log.
        env: Its environment; None takes this process's.
        cwd: Its directory; None takes this process's.

    Raises:
        PeerError: If it does not become healthy.
    """
    path = _log_dir(name) / f"{log}.log"
    with path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=output, stderr=output, start_new_session=True
        )
        try:
            if not _healthy(health_url, process):
                raise PeerError(f"{Path(command[0]).name} did not start; {_tail(path)}")
            yield
        finally:
            _stop(process)


def llama_server_arguments(
    *, n_slots: int, n_ctx: int, n_threads: int, ubatch: int = 512
) -> list[str]:
    """Return the options with which llama-server does best on shared prompts.

    One unified KV pool for all slots, flash attention, as many threads as carril's engine.
    """
    options = {
        "-c": n_ctx,
        "-np": n_slots,
        "-t": n_threads,
        "-tb": n_threads,
        "-b": max(ubatch, 2048) if ubatch == 512 else ubatch,
        "-ub": ubatch,
        "-fa": "on",
    }
    return [word for pair in options.items() for word in map(str, pair)] + ["-kvu"]


@functools.cache
def sha256(path: Path) -> str:
    """Return the hash of a model file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_dir(name: str) -> Path:
    directory = bench_dir() / "logs" / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _healthy(url: str, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(url, timeout=5) as answer,
        ):
            if answer.status == 200:
                return True
        time.sleep(0.1)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(_STOP_S if sign == signal.SIGTERM else None)
        except subprocess.TimeoutExpired:
            continue
        return


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"log: {path}", *lines])
