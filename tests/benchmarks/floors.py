"""The regression guard: ratios that the ordinary tests hold the code to, in `floors.json`.

Ratios and no times, because a build machine may be many times slower than another. They are what
was measured at the commit that set them, times 1.4, and more for latency on a cluster: noise does
not trip them, twice the overhead does (shown in `tests/integration/gateway/test_cost.py` and
`test_latency.py`). Whoever makes the code faster lowers them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATH = Path(__file__).with_name("floors.json")


def floors() -> dict[str, Any]:
    """Return the committed bounds."""
    known: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8"))
    return known


def beyond(found: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, str]:
    """Return every figure above its bound, with both; empty where all is well.

    Raises:
        KeyError: If there is a bound that was not measured.
    """
    return {
        name: f"{found[name]:.2f}, at most {bound:g}"
        for name, bound in bounds.items()
        if found[name] > bound
    }
