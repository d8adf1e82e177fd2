"""How a command ends: exit codes, and the error that carries one."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees; CI tells a refused deployment from a broken machine by it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 3
    AUTH = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on.

    Args:
        message: What happened, in the user's words.
        fix: What to do about it; printed on a line of its own.
        code: How the process exits.
    """

    def __init__(
        self, message: str, fix: str | None = None, code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(message, fix, code)
        self.message = message
        self.fix = fix
        self.code = code

    def __str__(self) -> str:
        return self.message


def infrastructure(message: str, fix: str | None = None) -> CommandError:
    """Return an error about the machine or the cluster, not about the user's files."""
    return CommandError(message, fix, ExitCode.INFRASTRUCTURE)
