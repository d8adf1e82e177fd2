"""Where results go: `CARRIL_HOME/bench/latest.json`, a page and plots beside it.

Every scenario publishes by itself and replaces only its own figures, so a single one can be
measured again:

    run = report.start("gateway")
    ...
    run.publish(ratios={"gateway_p50_vs_two_hop": ratios(ours, theirs)},
                absolutes={"gateway_c16_p50": spread(values, "ms")})

A ratio or an absolute is a `Spread` over rounds, or one number. Scenarios remember when, on what
and at which commit they were measured; the flat `ratios` and `absolutes` are the union of all.
"""

import contextlib
import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.home import carril_home
from tests.benchmarks import machine, page, plots
from tests.benchmarks.spread import Spread

SCHEMA_VERSION = 1

Figures = Mapping[str, Spread | float]


def bench_path() -> Path:
    """Return the directory of results and logs, which need not exist."""
    return carril_home() / "bench"


def bench_dir() -> Path:
    """Return (and make) the directory of results and logs."""
    directory = bench_path()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def rounds(default: int = 3) -> int:
    """Return how often to repeat: `CARRIL_BENCH_ROUNDS`, or the default.

    Raises:
        ValueError: If the variable is no positive number.
    """
    text = os.environ.get("CARRIL_BENCH_ROUNDS", str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"CARRIL_BENCH_ROUNDS={text!r} is no number of rounds; 3, for example")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One scenario being measured."""

    scenario: str
    directory: Path
    started: float = field(default_factory=time.monotonic)
    load_before: list[float] = field(default_factory=machine.load)

    def publish(
        self, *, ratios: Figures, absolutes: Figures, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Put the scenario's figures in place of its earlier ones and write the page again.

        Args:
            ratios: Ours divided by theirs, by name.
            absolutes: Everything else, by name.
            notes: How it was measured: rounds, clients, commands of the peers.
        """
        entry = {
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - self.started, 1),
            "load_before": self.load_before,
            "load_after": machine.load(),
            "machine": machine.hardware(),
            "versions": machine.versions(),
            "notes": dict(notes or {}),
            "ratios": {name: _figure(value) for name, value in ratios.items()},
            "absolutes": {name: _figure(value) for name, value in absolutes.items()},
        }
        with _exclusive(self.directory / "latest.lock"):
            report = merged(read(self.directory), self.scenario, entry)
            write(self.directory / "latest.json", json.dumps(report, indent=1) + "\n")
            drawn = plots.draw(report, self.directory)
            write(self.directory / "latest.md", page.render(report, plots=drawn))
        sys.stdout.write("\n" + page.render_scenario(self.scenario, entry) + "\n")


def start(scenario: str, directory: Path | None = None) -> Run:
    """Begin a scenario: note the time and how busy the machine is already."""
    return Run(scenario=scenario, directory=directory or bench_dir())


def read(directory: Path) -> dict[str, Any]:
    """Return what has been published so far; an empty report if nothing was, or by an older carril.

    Raises:
        ValueError: If a newer carril wrote it.
    """
    try:
        known = json.loads((directory / "latest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {"scenarios": {}}
    version = known.get("schema_version", 0)
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{directory / 'latest.json'} has schema version {version}, newer than "
            f"{SCHEMA_VERSION}; move it away to measure with this carril"
        )
    return known if version == SCHEMA_VERSION else {"scenarios": {}}


def merged(report: Mapping[str, Any], scenario: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report with one scenario replaced, and everything flat derived from all of them.

    Raises:
        ValueError: If two scenarios give a figure the same name.
    """
    scenarios = {**report["scenarios"], scenario: dict(entry)}
    return {
        "schema_version": SCHEMA_VERSION,
        "measured_at": entry["measured_at"],
        "machine": entry["machine"],
        "versions": entry["versions"],
        "ratios": {name: value["median"] for name, value in _union(scenarios, "ratios").items()},
        "spread": _union(scenarios, "ratios"),
        "absolutes": _union(scenarios, "absolutes"),
        "scenarios": scenarios,
    }


def _union(scenarios: Mapping[str, Any], kind: str) -> dict[str, Any]:
    union: dict[str, Any] = {}
    for scenario, entry in scenarios.items():
        twice = sorted(union.keys() & entry[kind].keys())
        if twice:
            raise ValueError(f"scenario {scenario!r} publishes {kind} of another one: {twice}")
        union.update(entry[kind])
    return union


def _figure(value: Spread | float) -> dict[str, Any]:
    known = value if isinstance(value, Spread) else Spread(value, value, value, 1)
    return known.as_json()


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
