"""Reading a large log by `carril exp show`, `decide`; full size: CARRIL_BENCH_EXPOSURES=10000000.

Seconds depend on the machine; memory does not, and must not grow with the log.
"""

import json
import os
import sys
from pathlib import Path

from tests.benchmarks.large_log import EXPERIMENT, make, measure, prepare

N = int(os.environ.get("CARRIL_BENCH_EXPOSURES", "300000"))
_MAX_MIB = 500


def test_reading_a_large_log(tmp_path: Path) -> None:
    make(tmp_path / "events" / "events.db", N, answers=1.1, voted=0.01, seed=1)
    prepare(tmp_path)
    for command in ("show", "decide"):
        found = measure(tmp_path, "exp", command, EXPERIMENT, "--json")
        sys.stdout.write(f"\n{N:,} exposures: {json.dumps(found)}\n")
        assert found["exit_code"] in (0, 1, 5), found
        assert found["peak_memory_mib"] <= _MAX_MIB
