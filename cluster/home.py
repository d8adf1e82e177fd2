"""Where carril keeps what it writes at run time: everything under `CARRIL_HOME`."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_MAX_RAY_CHARS = 45
"""A Unix socket path has 107 characters; Ray appends up to 62 of its own to the directory."""
_MAX_HAPROXY_CHARS = 27
"""HAProxy takes 97; Serve appends a 56-digit node id and at most `metrics.sock`."""


def carril_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of run-time state, `./var` unless `CARRIL_HOME` says otherwise."""
    return Path(environ.get("CARRIL_HOME") or "var").absolute()


def run_dir(home: Path) -> Path:
    """Return (and make) the directory of what only the owner may read: sockets, the record."""
    return _private(home / "run")


def record_path(home: Path) -> Path:
    """Return the file that remembers the running cluster."""
    return run_dir(home) / "cluster.json"


def ray_temp_dir(home: Path) -> Path:
    """Return Ray's directory for sessions, logs and sockets."""
    return _short(home, "ray", _MAX_RAY_CHARS)


def haproxy_dir(home: Path) -> Path:
    """Return the directory of HAProxy's configuration and sockets."""
    return _private(_short(home, "h", _MAX_HAPROXY_CHARS))


def ray_token_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file of the token that Ray's ports ask for.

    Ray's own default place, so that `serve deploy` and `ray job submit` find it too.
    """
    own = environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(own) if own else Path.home() / ".ray" / "auth_token"


def ensure_ray_token(path: Path) -> None:
    """Make the token file, readable by its owner only, unless there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def _short(home: Path, name: str, max_chars: int) -> Path:
    """Return a directory that only the owner reaches, with room for socket names.

    It lies under the home, or where that path is too long, in the system's temporary directory
    under a name derived from the home.
    """
    inside = run_dir(home) / name
    if len(str(inside)) <= max_chars:
        return inside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:6]
    # Ray opens its own directory to everybody, so it lies in one that is closed.
    return _private(Path("/tmp") / f"carril-{os.getuid()}-{digest}") / name  # noqa: S108 (0700)


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user")
    path.chmod(0o700)
    return path
