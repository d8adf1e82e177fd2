"""What must be true of the machine before a server starts on it."""

from collections.abc import Iterable

import psutil

from cluster.errors import infrastructure
from cluster.memory import MemoryNeed, gib
from cluster.process_tree import port_owner

_PORT_ROLES = {"http": "the API", "dashboard": "Ray's dashboard", "gcs": "Ray"}


def check_ports(ports: Iterable[tuple[str, int]]) -> None:
    """Make sure that the public ports are free.

    Args:
        ports: (role, port); roles are `http`, `dashboard` and `gcs`.

    Raises:
        CommandError: With what holds them.
    """
    taken = [
        f"port {port} (for {_PORT_ROLES[role]}) is taken by {owner}"
        for role, port in ports
        if (owner := port_owner(port)) is not None
    ]
    if taken:
        raise infrastructure(
            "; ".join(taken), "stop that, or choose others: --port, --dashboard-port, --ray-port"
        )


def check_memory(need: MemoryNeed) -> str | None:
    """Compare a need with the machine.

    Returns:
        A warning where exchanging a model would not fit, else None.

    Raises:
        CommandError: If the config does not fit at all.
    """
    available = psutil.virtual_memory().available
    if need.steady_bytes > available:
        raise infrastructure(
            f"the config needs about {gib(need.steady_bytes)} of memory, "
            f"{gib(available)} is available",
            "lower n_ctx or n_slots, use a smaller model, or fewer variants",
        )
    if need.peak_bytes > available:
        return (
            f"exchanging the largest model while serving needs about {gib(need.peak_bytes)} of "
            f"memory, {gib(available)} is available"
        )
    return None
