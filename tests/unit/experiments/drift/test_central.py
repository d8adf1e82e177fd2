"""Drift of the traffic of all nodes is read from the central database."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli.main import run
from experiments.drift.policy import DriftPolicy
from experiments.drift.source import period_of, read_traffic
from experiments.home import event_file
from tests.postgres import PostgresServer
from tests.unit.experiments.drift.stored import store_traffic


def test_the_central_database_has_the_traffic_of_the_file(
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    end = store_traffic(tmp_path, days=0.5, per_day=30)
    address = postgres.new_database("drift")
    assert run(["events", "ship", "--to", address]) == 0
    file = event_file(tmp_path)
    assert period_of(address) == period_of(file)
    ours, theirs = (
        read_traffic(source, DriftPolicy(), since=0, until=end) for source in (file, address)
    )
    assert ours.keys() == theirs.keys()
    for name, seen in ours.items():
        assert theirs[name].models == seen.models
        for part in ("answers", "votes", "closed"):
            for column in ("at", "failed", "good", "lead", "latency_s"):
                values = getattr(getattr(seen, part), column, None)
                if values is not None:
                    found = getattr(getattr(theirs[name], part), column)
                    assert _sorted(found) == _sorted(values)
    capsys.readouterr()
    out = tmp_path / "baseline.json"
    for command in (
        ["drift", "baseline", "--allow-short", "--out", str(out)],
        ["drift", "check", "--baseline", str(out), "--no-alert"],
    ):
        assert run([*command, "--events", address]) in (0, 1, 5), capsys.readouterr().err


def _sorted(values: Any) -> list[float]:
    return sorted(np.nan_to_num(values, nan=-1.0).tolist())
