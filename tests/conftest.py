"""What all tests share: markers by folder, and what must be asked for by a flag."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_MARKERS = {"unit": "unit", "integration": "integration", "e2e": "e2e", "benchmarks": "benchmark"}
_OPT_IN = {"slow": "minutes", "gpu": "needs a GPU", "vllm": "needs vLLM: make test-vllm"}

# One machine may be many times slower than another; how long an example takes proves nothing.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# The same examples every time, so that a red build is about its change. Look for new ones with
# `pytest --hypothesis-profile=explore`.
settings.register_profile("carril", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("explore", max_examples=1000, **_COMMON)
settings.load_profile("carril")


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, reason in _OPT_IN.items():
        parser.addoption(f"--{name}", action="store_true", help=f"also run {name} tests ({reason})")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(root).parts[0]
        item.add_marker(_MARKERS[folder])
        for name, reason in _OPT_IN.items():
            if item.get_closest_marker(name) and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"{reason}: run with --{name}"))
