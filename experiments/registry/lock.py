"""The registry's lock: one writer at a time, with a token that grows with every holder.

The lock itself is the kernel's (`flock`), so a holder that dies frees it. The token guards against
what flock cannot see: a lock file that was deleted and made anew, so that two writers each hold
"the" lock. Whoever is not the last to have taken the token may not write.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.registry.errors import RegistryBusy

_POLL_S = 0.05


class HeldLock:
    """The lock, held by this process.

    Args:
        path: The lock file.
        descriptor: Its open descriptor.
        token: The token written into it.
    """

    def __init__(self, path: Path, descriptor: int, token: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.token = token

    def check(self) -> None:
        """Make sure that nobody has taken the lock over.

        Raises:
            RegistryBusy: If the lock file is another one now, or carries another token.
        """
        try:
            same = os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            same = False
        if not same or _read_token(self._descriptor) != self.token:
            raise RegistryBusy(
                f"the lock {str(self._path)!r} was taken over while it was held (token "
                f"{self.token}); nothing was written",
                "look at what happened meanwhile (carril models log), then try again",
            )


@contextmanager
def locked(path: Path, *, last_token: int, timeout_s: float) -> Iterator[HeldLock]:
    """Hold the lock; the token is one more than any before.

    Args:
        path: The lock file; made when missing.
        last_token: Highest token seen in the ledger, for the case that the lock file is new.
        timeout_s: Longest wait.

    Raises:
        RegistryBusy: If another process holds it for longer than that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(path, descriptor, timeout_s)
        token = max(_read_token(descriptor), last_token) + 1
        os.pwrite(descriptor, b"%020d\n" % token, 0)
        os.fsync(descriptor)
        yield HeldLock(path, descriptor, token)
    finally:
        os.close(descriptor)  # frees the lock


def _wait(path: Path, descriptor: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise RegistryBusy(
                    f"another process has held {str(path)!r} for {timeout_s:g} s: a promotion or "
                    "a registration is in progress",
                    "wait for it, then look at: carril models log",
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def _read_token(descriptor: int) -> int:
    raw = os.pread(descriptor, 32, 0).strip()
    return int(raw) if raw.isdigit() else 0
