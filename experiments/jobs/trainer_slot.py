"""One training or evaluation at a time, also where Ray does not see it.

Ray's resource `trainer` queues what is submitted with it. A plain `ray job submit` or a training
without Ray does not ask for that resource, so every job also takes this lock. It is the kernel's:
a job that dies frees it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.jobs.errors import JobError, JobExit
from experiments.jobs.record import jobs_dir


@contextmanager
def trainer_slot(home: Path, submission_id: str) -> Iterator[None]:
    """Hold the slot.

    Raises:
        JobError: If another job has it; the message names it.
    """
    path = jobs_dir(home) / ".trainer.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"another job has the trainer: {_holder(descriptor)}. Wait for it, or stop it: "
                "carril jobs stop",
                JobExit.INFRASTRUCTURE,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"job": submission_id, "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"{holder['job']} (pid {holder['pid']})"
    except (ValueError, KeyError, TypeError):
        return "one that has just started"
