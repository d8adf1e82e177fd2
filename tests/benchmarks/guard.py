"""Refuse a change that lets carril fall behind: compare ratios with recorded ones.

    python -m tests.benchmarks.guard            # exit 1 if a ratio got worse
    python -m tests.benchmarks.guard --record   # keep the last run's ratios as the reference

Ratios are compared, never times: a slower machine slows carril and its peers alike. A ratio counts
as worse if its best round is worse than the reference by more than the margin, so that one slow
round is no alarm.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.targets import TARGETS

REFERENCE = Path(__file__).with_name("reference.json")
MARGIN = 0.15
"""Rounds on one quiet machine differ by less than this."""


def worse(
    spread: Mapping[str, Mapping[str, Any]], reference: Mapping[str, float], margin: float = MARGIN
) -> list[str]:
    """Return one line per ratio with a target that got worse than the reference allows.

    Ratios that were not measured now, or not then, are not compared.
    """
    lines = []
    for name, target in TARGETS.items():
        if name not in spread or name not in reference:
            continue
        known, now = reference[name], spread[name]
        if target.better == "higher":
            is_worse = now["max"] < known * (1 - margin)
        else:
            is_worse = now["min"] > known * (1 + margin)
        if is_worse:
            best = now["max"] if target.better == "higher" else now["min"]
            lines.append(f"{name}: {known:g} before, {best:g} in the best round now")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Compare, or record."""
    parser = argparse.ArgumentParser(description="Compare ratios with the recorded ones.")
    parser.add_argument("--record", action="store_true", help="keep the last run's ratios")
    parser.add_argument("--margin", type=float, default=MARGIN)
    options = parser.parse_args(arguments)
    known = report.read(report.bench_dir())
    if not known.get("ratios"):
        sys.stderr.write("error: nothing has been measured yet; run `make bench` first\n")
        return 2
    if options.record:
        ratios = {name: known["ratios"][name] for name in TARGETS if name in known["ratios"]}
        recorded = {"machine": known["machine"]["cpu"], "ratios": ratios}
        report.write(REFERENCE, json.dumps(recorded, indent=1) + "\n")
        sys.stdout.write(f"{REFERENCE}\n")
        return 0
    if not REFERENCE.exists():
        sys.stderr.write(
            "error: no reference is recorded; `python -m tests.benchmarks.guard --record`\n"
        )
        return 2
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))["ratios"]
    compared = len(known["ratios"].keys() & reference.keys())
    lines = worse(known["spread"], reference, options.margin)
    sys.stdout.write("".join(f"worse: {line}\n" for line in lines))
    sys.stdout.write(f"{compared} ratios compared, {len(lines)} worse\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
