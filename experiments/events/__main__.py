"""`python -m experiments.events FILE PID`: ships a file's events while that process is its parent.

The event writer starts it: a process of its own, because what converts rows must not keep the one
that commits them waiting. The address comes in CARRIL_EVENTS_URL, where no process list shows it.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from experiments.events.central import CentralError, CentralStore, server_url
from experiments.events.shipping import Shipper

_LOOK_S = 1.0


def main() -> int:
    """Ship until SIGTERM, or until the parent is gone."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent decides
    path, parent = Path(sys.argv[1]), int(sys.argv[2])

    def watch() -> None:
        while not stop.wait(_LOOK_S):
            if os.getppid() != parent:
                stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    try:
        central = CentralStore(server_url(os.environ.get("CARRIL_EVENTS_URL", "")))
    except CentralError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    Shipper(path, central).follow(stop)
    central.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
