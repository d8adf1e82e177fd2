"""What answers cost, from the price of a machine and how much of it they take."""

from dataclasses import dataclass

_PER = 1000
_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """In the currency of the price."""

    per_thousand: float
    """Of 1,000 answers at the given rate, on as many nodes as the promise takes."""
    per_thousand_full: float
    """Of 1,000 answers on nodes that are never idle: the least that this machine can do."""


def cost_of(nodes: int, rate: float, node_hour: float, *, node_capacity: float) -> Cost:
    """Return what 1,000 answers cost.

    Nodes are paid by the hour whether they are busy or not. So the price of an answer falls with
    the rate until another node is needed, and a dear fast machine is the cheaper one only above the
    rate at which it replaces enough slow ones.

    Args:
        nodes: Nodes that run.
        rate: Requests per second that they get.
        node_hour: Price of a node per hour.
        node_capacity: Requests per second that one node can sustain.
    """
    second = node_hour / _HOUR_S
    return Cost(
        per_thousand=_PER * nodes * second / rate,
        per_thousand_full=_PER * second / node_capacity,
    )
