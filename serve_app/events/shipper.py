"""Keeps the process running that ships this node's events to the central database."""

import functools
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

_RESTART_S = 5.0
_STOP_S = 10.0


class ShipperProcess:
    """One shipper at most, started anew when it dies or the destination changes.

    The shipper itself waits out outages of the database; see `experiments.events.shipping`.

    Args:
        path: The event file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._url: str | None = None
        self._closed = False
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def ship_to(self, url: str | None) -> None:
        """Set the destination; None ships nothing. Repeating it changes nothing."""
        with self._changed:
            if url == self._url or self._closed:
                return
            self._url = url
            self._end()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def pid(self) -> int | None:
        """The shipper's process; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def close(self) -> None:
        """Stop shipping for good."""
        with self._changed:
            self._closed = True
            self._end()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._url is not None)
                if self._closed:
                    return
                url = self._url
                process = self._process = self._start(str(url))
            if process is not None:
                self._watch(process)
            with self._changed:
                # A new destination is taken at once; what died by itself gets a pause.
                self._changed.wait_for(functools.partial(self._is_over, url), _RESTART_S)

    def _is_over(self, url: str | None) -> bool:
        return self._closed or self._url != url

    def _start(self, url: str) -> subprocess.Popen[str] | None:
        try:
            return subprocess.Popen(
                [
                    *("nice", "-n", "5", sys.executable, "-m", "experiments.events"),
                    *(str(self._path), str(os.getpid())),
                ],
                env={**os.environ, "CARRIL_EVENTS_URL": url},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError:  # no memory, no processes left: the next round tries again
            logger.exception("shipper not started")
            return None

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        """Log what the shipper says, until it ends."""
        logger.info("shipper started", extra={"shipper_pid": process.pid})
        with process:
            for line in process.stderr or ():
                logger.warning("shipper", extra={"said": line.rstrip()[:500]})
        logger.info("shipper ended", extra={"status": process.returncode})
