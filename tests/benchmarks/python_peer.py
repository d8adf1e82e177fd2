"""llama-cpp-python's own server, in an environment of its own.

It answers one request at a time, so it is no rival in bursts; it is what `pip install` gives.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from cluster import native_build
from tests.benchmarks.cache import bench_cache, exclusive
from tests.benchmarks.source import PeerError

REQUIREMENTS = ("pydantic-settings==2.*", "sse-starlette==3.*", "starlette-context==0.3.*")
"""What its server needs beside the package, apart from fastapi, uvicorn and PyYAML."""


def interpreter() -> Path:
    """Return the Python of an environment with `llama_cpp.server`, made once per machine.

    It has the wheel that carril itself uses, so both compute with the same kernels.

    Raises:
        PeerError: If the wheel does not build, or the packages cannot be installed.
    """
    try:
        key = native_build.build_key()
        wheel = native_build.build_wheel(key, cache=native_build.cache_dir())
    except native_build.BuildError as error:
        raise PeerError(str(error)) from error
    identity = json.dumps([dataclasses.asdict(key), REQUIREMENTS, sys.version], sort_keys=True)
    name = f"llama-cpp-server-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    home = bench_cache() / "python" / name
    python, done = home / "bin" / "python", home / "complete"
    with exclusive(home.with_name(f"{name}.lock")):
        if not done.exists():
            _run(sys.executable, "-m", "venv", "--clear", str(home))
            _run(str(python), "-m", "pip", "install", "--quiet", f"{wheel}[server]", *REQUIREMENTS)
            done.touch()
    return python


def command(model: Path, *, port: int, n_ctx: int, n_threads: int) -> list[str]:
    """Return how to start it, with flash attention and all threads, which are not its defaults."""
    options = {
        "--model": model,
        "--host": "127.0.0.1",
        "--port": port,
        "--n_ctx": n_ctx,
        "--n_threads": n_threads,
        "--n_threads_batch": n_threads,
        "--flash_attn": "true",
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [str(interpreter()), "-m", "llama_cpp.server", *words]


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PeerError(f"{' '.join(words[:4])} failed: {done.stderr.strip()[-1000:]}")
