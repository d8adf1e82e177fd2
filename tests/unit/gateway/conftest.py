"""Fixtures of the gateway tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.builders import Gateway


@pytest.fixture
def make_gateway(tmp_path: Path) -> Callable[..., Gateway]:
    def make(**options: Any) -> Gateway:
        return Gateway(tmp_path / "spool", **options)

    return make


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway()
