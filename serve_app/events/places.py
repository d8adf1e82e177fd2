"""Unix sockets in directories of any depth."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield an address for a Unix socket at `path`, short enough for the kernel.

    An address has 107 bytes at most on Linux, and a CARRIL_HOME may be longer. There the directory
    is reached through an open descriptor; elsewhere the path has to fit.

    Raises:
        OSError: If the directory cannot be opened.
    """
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = Path(f"/proc/self/fd/{descriptor}")
        yield str(short / path.name if short.is_dir() else path)
    finally:
        os.close(descriptor)
