"""How a job ends when it does not end well."""

from enum import IntEnum


class JobExit(IntEnum):
    """Exit codes of a job's process."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 3
    INTERRUPTED = 130


class JobError(Exception):
    """A job cannot go on; the message is for the person who submitted it.

    Args:
        message: What happened, with the values.
        code: How the process exits.
    """

    def __init__(self, message: str, code: JobExit = JobExit.FAILED) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class JobStopped(BaseException):
    """Somebody asked the job to stop.

    Like `KeyboardInterrupt` no `Exception`: code that survives failures must not survive this.
    """
