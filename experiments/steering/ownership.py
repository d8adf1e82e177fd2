"""Whose split is served: compare-and-swap for controllers that share a config with people."""

from enum import Enum, auto

from experiments.steering.records import Seen, Standing


class Ownership(Enum):
    """Whose split is served."""

    UNKNOWN = auto()
    """Gateways do not answer, or do not agree yet."""
    OURS = auto()
    """What was deployed here; the file may hold an edit that is not deployed."""
    ADOPTABLE = auto()
    """Somebody deployed the same split with something else changed."""
    FOREIGN = auto()


def ownership(state: Standing, seen: Seen) -> Ownership:
    """Return whose split the gateways serve.

    Args:
        state: What was deployed here last.
        seen: What runs, and what the file says.
    """
    if not seen.active_config:
        return Ownership.UNKNOWN
    ours = seen.active_config == state.served.config_hash
    if ours and not edited(state, seen):
        return Ownership.OURS
    if (
        seen.file is not None
        and seen.file_declares
        and seen.file_runs
        and seen.file.config_hash == seen.active_config
        and seen.file.percent == state.served.percent
    ):
        return Ownership.ADOPTABLE
    return Ownership.OURS if ours else Ownership.FOREIGN


def edited(state: Standing, seen: Seen) -> bool:
    """Return whether the file is not the one that was deployed here last."""
    return seen.file is None or seen.file.file_sha256 != state.served.file_sha256
