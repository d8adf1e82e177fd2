"""Queues that have a formula: what the simulation is checked against."""

import math


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that an arrival at an M/M/c queue has to wait.

    Computed from Erlang B's recursion, which does not overflow.

    Args:
        servers: c >= 1.
        load: Offered load in servers, arrival rate times mean service time; below `servers`.

    References:
        A. K. Erlang (1917); Kleinrock, Queueing Systems I (1975), eq. 3.40.
    """
    _check(servers, load)
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def mmc_mean_wait(servers: int, rate: float, service_s: float) -> float:
    """Return the mean seconds that a request waits before one of c exponential servers."""
    load = rate * service_s
    return erlang_c(servers, load) * service_s / (servers - load)


def mmc_wait_quantile(servers: int, rate: float, service_s: float, q: float) -> float:
    """Return a quantile of the wait: P(W > t) = C(c, a) exp(-(c - a) t / s)."""
    load = rate * service_s
    late = erlang_c(servers, load)
    return max(0.0, math.log(late / (1 - q)) * service_s / (servers - load))


def processor_sharing_mean(rate: float, service_s: float) -> float:
    """Return the mean seconds in an M/G/1 queue that serves all at once, each with equal speed.

    It depends on the mean of the service time alone (Kleinrock, Queueing Systems II (1976), 4.17).
    """
    _check(1, rate * service_s)
    return service_s / (1 - rate * service_s)


def _check(servers: int, load: float) -> None:
    if servers < 1 or not 0 <= load < servers:
        raise ValueError(f"a load of {load:g} on {servers} servers has no steady state")
