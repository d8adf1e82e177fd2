"""What can be wrong with a registry, a promotion, or the files behind them."""

from pydantic import ValidationError

from experiments.errors import GuidedError


class RegistryError(GuidedError):
    """Base of all errors of the model registry."""


class UnknownVersion(RegistryError):
    """No registered model, version or alias of that name."""


class VersionConflict(RegistryError):
    """The version exists already, with other content."""


class StaleExpectation(RegistryError):
    """The alias does not point where the caller, or the gate, took for granted."""


class GateRefused(RegistryError):
    """The gate report does not allow this promotion.

    Args:
        message: Why.
        fix: What to do about it.
        inconclusive: Whether the gate could not decide, rather than said no.
    """

    def __init__(self, message: str, fix: str | None = None, inconclusive: bool = False) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, inconclusive)
        self.inconclusive = inconclusive


class AlteredFile(RegistryError):
    """A stored file is not the one that was registered."""


class BrokenLedger(RegistryError):
    """The ledger was edited, cut or reordered."""


class RegistryBusy(RegistryError):
    """Somebody else holds the lock, or took it over."""


def brief(error: Exception) -> str:
    """Return in one line what is wrong with a document: fields and rules, or the error's text."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False)
        shown = [f"{'.'.join(map(str, f['loc'])) or 'document'}: {f['msg']}" for f in faults[:3]]
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        return "; ".join(shown) + more
    return " ".join(str(error).split())[:300]
