"""Where what benchmarks build is kept: outside any clone, shared by all of them."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def bench_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of built peers and synthetic models."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "carril" / "bench"


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file while something is built, so that two runs do not build it twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"another process holds {path}; waiting for it\n")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
