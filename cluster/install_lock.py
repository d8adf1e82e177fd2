"""Install a lock file into this environment, with one line of progress.

Standard library only: the Makefile calls `python -m cluster.install_lock requirements/base.lock`
in a fresh environment. pip prints some four hundred lines for such a file; they go to a log.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from cluster.terminal_progress import Progress

_PACKAGE = re.compile(
    r"(?:Collecting |Requirement already satisfied: |Processing \S*/)([A-Za-z0-9._]+)"
)
_PINNED = re.compile(r"^[A-Za-z0-9._-]+==", re.MULTILINE)
_TAIL_LINES = 25


def install(lock: Path, *, log_path: Path, no_deps: bool = False) -> int:
    """Install every pin of a lock; return pip's exit status.

    Hashes are checked when the file has them (pip demands all of them or none).

    Args:
        lock: The file.
        log_path: Where pip's own words go.
        no_deps: Install the pins alone, whatever else they ask for.
    """
    total = len(_PINNED.findall(lock.read_text(encoding="utf-8")))
    progress = Progress(f"Installing {total} packages")
    command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", "-r", str(lock)]
    if no_deps:
        command.append("--no-deps")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 (PIPE was asked for)
        for line in process.stdout:
            log.write(line)
            found = _PACKAGE.match(line)
            if found:
                seen.add(found[1].lower())
                # The last tenth is unpacking, about which pip says nothing.
                progress.update(len(seen) * 9, total * 10, found[1])
            elif line.startswith("Installing collected packages"):
                progress.update(9, 10, "unpacking")
        returncode = process.wait()
    if returncode == 0:
        progress.finish(f"Installed {lock.name}")
        return 0
    tail = log_path.read_text(encoding="utf-8").splitlines()[-_TAIL_LINES:]
    progress.say("\n".join(f"    {line[:200]}" for line in tail))
    progress.say(f"error: pip could not install {lock}; full log: {log_path}")
    return returncode


def main(argv: list[str] | None = None) -> int:
    """Install the lock files named on the command line, in order."""
    parser = argparse.ArgumentParser(prog="python -m cluster.install_lock", description=__doc__)
    parser.add_argument("lock", type=Path, nargs="+")
    parser.add_argument("--no-deps", action="store_true", help="install the pins alone")
    options = parser.parse_args(argv)
    for lock in options.lock:
        log_path = Path(sys.prefix) / "carril-logs" / f"{lock.stem}.log"
        if install(lock, log_path=log_path, no_deps=options.no_deps) != 0:
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
