"""A registry with nothing in it."""

from pathlib import Path

import pytest

from experiments.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home" / "registry")
