"""LiteLLM's proxy, installed in an environment of its own and started beside carril.

    python -m tests.benchmarks.litellm_peer     # installs it and says where

One worker, its own HTTP server with its own defaults, in front of `mock_openai`. Nothing is
switched off that a plain installation has on, but for what would ask the internet at start.
"""

import contextlib
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.benchmarks.cache import bench_cache, exclusive
from tests.benchmarks.machine import ROOT
from tests.benchmarks.servers import Server, background, free_port
from tests.benchmarks.source import PeerError

VERSION = "1.108.7"
"""Never 1.82.7 or 1.82.8: those wheels were backdoored."""
_MODEL = "echo"


def install() -> Path:
    """Return the environment with the proxy, making it on first use.

    Raises:
        PeerError: If it cannot be installed.
    """
    folder = bench_cache() / f"litellm-{VERSION}"
    with exclusive(folder.with_suffix(".lock")):
        if (folder / "installed").exists():
            return folder
        sys.stderr.write(f"installing litellm[proxy] {VERSION} in {folder} (some minutes)\n")
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        done = subprocess.run(
            [
                str(folder / "bin/python"),
                "-m",
                "pip",
                "install",
                "-q",
                f"litellm[proxy]=={VERSION}",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise PeerError(f"litellm {VERSION} was not installed: {done.stderr.strip()[-2000:]}")
        (folder / "installed").touch()
    return folder


@contextlib.contextmanager
def litellm() -> Iterator[Server]:
    """Run the proxy with one worker in front of a mock that answers at once.

    Raises:
        PeerError: If one of the two does not start.
    """
    folder = install()
    upstream, port = free_port(), free_port()
    mock = [sys.executable, "-m", "tests.benchmarks.mock_openai", str(upstream)]
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "NO_PROXY": "127.0.0.1",
    }
    with (
        background(mock, f"http://127.0.0.1:{upstream}/", name="litellm", log="mock", cwd=ROOT),
        _config(upstream) as config,
    ):
        command = [str(folder / "bin/litellm"), "--config", str(config), "--num_workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        with background(
            command, f"{url}/health/liveliness", name="litellm", log="litellm", env=environment
        ):
            yield Server(url, _MODEL)


@contextlib.contextmanager
def _config(upstream: int) -> Iterator[Path]:
    path = bench_cache() / f"litellm-{os.getpid()}.yaml"
    deployment = {
        "model": f"openai/{_MODEL}",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": _MODEL, "litellm_params": deployment}],
        # Without keys, like the carril beside it: looking one up would cost it time.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.stdout.write(f"{install()}\n")
