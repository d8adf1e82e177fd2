"""A writer that is killed at any moment leaves a registry in order."""

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

from experiments.registry import Alias, Kind, Registry
from experiments.registry.ledger import Ledger
from tests.unit.training.registry.builders import registered
from training.registry.verification import verify

_WRITER = """
import sys
from pathlib import Path
from experiments.registry import Registry
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import promote

folder = Path(sys.argv[1])
registry = Registry(folder / "registry")
standing = registry.standings().get("okla")
first = len(standing.versions) + 1 if standing else 1
champion = registry.resolve("okla@champion") if standing and standing.champions else None
for major in range(first, 10_000):
    version = registered(registry, folder, f"{major}.0.0")
    report = gate_report(folder / "g.json", version, champion)
    promote(version.label, registry=registry, gate=report)
    champion = version
    print(version.version, flush=True)
"""
_KILLS = 6


def test_a_killed_writer_leaves_every_finished_promotion_and_nothing_half_made(
    tmp_path: Path,
) -> None:
    registry = Registry(tmp_path / "registry")
    draw = random.Random(42)
    for _ in range(_KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            cwd=Path(__file__).parents[4],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip()]
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(timeout=draw.uniform(0.0, 0.2))
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split()
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        findings = verify(registry)
        assert all(finding.ok for finding in findings), findings
        promoted = {
            entry.target.version for entry in registry.entries() if entry.kind is Kind.PROMOTE
        }
        assert set(acknowledged) <= promoted
    standing = registry.standings()["okla"]
    assert len(standing.champions) >= _KILLS
    # Life goes on: the next version takes the place of whatever was left.
    version = registered(registry, tmp_path, f"{len(standing.versions) + 1}.0.0")
    assert registry.standings()["okla"].aliases[Alias.CANDIDATE] == version.ref
    assert Ledger(registry.root).torn_bytes() == 0
