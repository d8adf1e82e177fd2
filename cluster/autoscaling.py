"""What a config says about the number of replicas, checked before Serve sees it.

Serve ignores misspelt options of `autoscaling_config` and reports the other faults only once the
application is being built.
"""

from collections.abc import Iterator, Mapping
from typing import Any

POLICY = "serve_app.model.scaling_policy:scale"
"""carril's policy; without it Serve goes by the number of ongoing requests alone."""

_KNOWN = frozenset(
    {
        "min_replicas",
        "initial_replicas",
        "max_replicas",
        "target_ongoing_requests",
        "metrics_interval_s",
        "look_back_period_s",
        "upscaling_factor",
        "downscaling_factor",
        "upscale_delay_s",
        "downscale_delay_s",
        "downscale_to_zero_delay_s",
        "aggregation_function",
        "policy",
    }
)


def autoscaling_faults(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the `autoscaling_config` of a model application's deployments."""
    for deployment in app.get("deployments") or []:
        block = deployment.get("autoscaling_config")
        if block is None:
            continue
        where = f"application {app['name']!r}: autoscaling_config"
        if not isinstance(block, Mapping):
            yield f"{where}: not a mapping"
            continue
        if isinstance(deployment.get("num_replicas"), int):
            yield f"{where}: num_replicas fixes the number; remove one of the two"
        for key in block:
            if key not in _KNOWN:
                yield f"{where}.{key}: unknown option, Serve would ignore it"
        yield from _policy_faults(block.get("policy"), where)
        low, high = block.get("min_replicas", 1), block.get("max_replicas", 1)
        if not isinstance(low, int) or not isinstance(high, int) or high < 1 or low > high:
            yield f"{where}: min_replicas {low!r} and max_replicas {high!r} are no range"
        elif low < 1:
            yield (
                f"{where}.min_replicas: 0 leaves nobody to say that the variant sleeps; keep 1 "
                "and free the memory of an idle model by user_config.idle.unload_after_s"
            )


def _policy_faults(policy: Any, where: str) -> Iterator[str]:
    if policy is None:
        return
    function = policy.get("policy_function") if isinstance(policy, Mapping) else None
    if not isinstance(function, str):
        yield f'{where}.policy: {policy!r} names no function; write {{policy_function: "{POLICY}"}}'
    elif function.startswith("serve_app.") and function != POLICY:  # others are their authors'
        yield f"{where}.policy.policy_function: {function!r} does not exist; carril has {POLICY!r}"


def most_replicas(app: Mapping[str, Any]) -> int:
    """Return how many replicas an application may have at once."""
    most = 1
    for deployment in app.get("deployments") or []:
        block = deployment.get("autoscaling_config")
        number = block.get("max_replicas") if isinstance(block, Mapping) else None
        if number is None:
            number = deployment.get("num_replicas")
        if isinstance(number, int):
            most = max(most, number)
    return most
