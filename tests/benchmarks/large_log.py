"""A large event log, and what it costs to read it: `python -m tests.benchmarks.large_log`.

Makes CARRIL_HOME-like folders with real assignment and made-up answers, through the real schema,
then runs `carril exp show` and `carril exp decide` on it and prints seconds and peak memory of all
their processes together. Days are written one after the other, so that pages split as they do in
use.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from experiments.assignment import Allocation, assign
from experiments.events import tables
from experiments.events.store import EventStore

ROOT = Path(__file__).parents[2]
EXPERIMENT, SALT = "large", "salt-large"
START, DAY_S, DAYS = 1_763_000_000.0, 86_400.0, 20
CONFIG = {
    "experiments": {
        EXPERIMENT: {
            "salt": SALT,
            "control": "stable",
            "allocation": {"stable": 50, "candidate": 50},
            "metrics": {"feedback.thumbs": {"role": "primary"}},
            "guardrails": {
                "errors": {"margin": 0.02},
                "latency": {"effect": "relative", "margin": 0.25},
                "latency_p95": {"effect": "relative", "margin": 0.25},
            },
        }
    }
}
_MODELS = {"stable": "a" * 64, "candidate": "b" * 64}


def make(path: Path, n_exposures: int, *, answers: float, voted: float, seed: int) -> None:
    """Write the log: exposures, their answers, and votes on a share of them."""
    EventStore(path).close()
    draw = random.Random(seed)
    split = Allocation.from_percent({"stable": 50, "candidate": 50}, control="stable")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "journal_size_limit = 0"):
            db.execute(f"PRAGMA {pragma}")
        place, left = 0, n_exposures
        for day in range(DAYS):
            n = round(left / (DAYS - day))
            left -= n
            db.execute("BEGIN")
            for table, rows in _day(draw, split, day, n, place, answers, voted):
                marks = ", ".join("?" * len(table.c))
                db.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)  # noqa: S608
                place = max(place, rows[-1][-1])
            db.execute("UPDATE log_state SET value = ? WHERE name = 'last_seq'", (str(place),))
            db.execute("COMMIT")
            _tell(f"day {day + 1} of {DAYS}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _day(
    draw: random.Random,
    split: Allocation,
    day: int,
    n: int,
    place: int,
    answers: float,
    voted: float,
) -> Iterator[tuple[Any, list[tuple[Any, ...]]]]:
    units = sorted(f"{draw.getrandbits(128):032x}" for _ in range(n))
    exposures, outcomes, votes = [], [], []
    for unit in units:
        made = assign(unit, split, salt=SALT)
        sha = _MODELS[made.variant]
        at = START + (day + draw.random()) * DAY_S
        place += 1
        exposures.append(
            (
                EXPERIMENT,
                1,
                unit,
                made.variant,
                made.probability,
                made.bucket,
                at,
                f"chatcmpl-{unit}",
                "okla-chat",
                "public",
                "0123456789abcdef",
                sha,
                0,
                3,
                place,
            )
        )
        for number in range(int(answers) + (draw.random() < answers % 1)):
            took = draw.lognormvariate(-0.7, 0.5)
            answer = f"chatcmpl-{int(at * 1000):012x}{unit[:12]}{number}"
            failed = draw.random() < 0.004
            place += 1
            outcomes.append(
                (
                    answer,
                    answer[9:],
                    at + took,
                    "okla-chat",
                    "public",
                    made.variant,
                    EXPERIMENT,
                    1,
                    unit,
                    "enrolled",
                    "error" if failed else "ok",
                    None,
                    "miss",
                    1,
                    "stop",
                    120,
                    40 + draw.getrandbits(6),
                    took,
                    0.2 * took,
                    0,
                    "0123456789abcdef",
                    sha,
                    3,
                    "busqueda",
                    0.5 + draw.random() / 2,
                    place,
                )
            )
            if draw.random() < voted:
                place += 1
                votes.append(
                    (
                        f"fb-{answer}",
                        at + took + 5,
                        "public",
                        "thumbs",
                        "boolean",
                        "inference",
                        "increase",
                        answer,
                        float(draw.random() < 0.7),
                        None,
                        "{}",
                        None,
                        "",
                        "0123456789abcdef",
                        3,
                        place,
                    )
                )
    for table, rows in (
        (tables.exposures, exposures),
        (tables.outcomes, outcomes),
        (tables.feedback, votes),
    ):
        if rows:
            yield table, rows


def prepare(home: Path) -> None:
    """Write what the gateway would have left: the declaration in force."""
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "gateway-config.json").write_text(json.dumps(CONFIG), encoding="utf-8")


def measure(home: Path, *command: str) -> dict[str, Any]:
    """Run a `carril` command; return its seconds, and the peak memory of its processes."""
    started = time.monotonic()
    with (home / "out.json").open("wb") as out:
        process = psutil.Popen(
            [sys.executable, "-m", "cluster.cli.main", *command],
            cwd=ROOT,
            env={**os.environ, "CARRIL_HOME": str(home)},
            stdout=out,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.1)
    seconds = time.monotonic() - started
    text = (home / "out.json").read_bytes()
    return {
        "command": "carril " + " ".join(command[:2]),
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak / 2**20),
        "exit_code": process.returncode,
        "output_sha256": hashlib.sha256(text).hexdigest()[:16],
    }


def _memory(process: psutil.Process) -> int:
    """Return the proportional set size of all processes: shared pages count once."""
    total = 0
    for one in [process, *_children(process)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exposures", type=int, default=10_000_000)
    parser.add_argument("--answers", type=float, default=1.1, help="per exposure, on average")
    parser.add_argument("--voted", type=float, default=0.01, help="share of answers with a vote")
    parser.add_argument("--home", type=Path, required=True, help="made if it has no log")
    parser.add_argument("--discard", action="store_true", help="delete the folder at the end")
    given = parser.parse_args()
    path = given.home / "events" / "events.db"
    if not path.is_file():
        started = time.monotonic()
        make(path, given.exposures, answers=given.answers, voted=given.voted, seed=1)
        _tell(f"made in {time.monotonic() - started:.0f} s")
    prepare(given.home)
    with closing(sqlite3.connect(path)) as db:
        rows = {
            name: db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]  # noqa: S608
            for name in ("exposures", "outcomes", "feedback")
        }
    _print({"rows": rows, "file_mib": path.stat().st_size // 2**20})
    for command in (("exp", "show", EXPERIMENT, "--json"), ("exp", "decide", EXPERIMENT, "--json")):
        _print(measure(given.home, *command))
    if given.discard:
        shutil.rmtree(given.home)


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
