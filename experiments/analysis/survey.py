"""Reading an experiment from the log, piece by piece, in as many processes as pay."""

import hashlib
import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from experiments.analysis.columns import ArrowReader, RowReader, arrow_reader
from experiments.analysis.errors import UnreadableLog
from experiments.analysis.exposures import Group, usual_assignments
from experiments.analysis.log import Log
from experiments.analysis.pieces import (
    CellSums,
    Durations,
    Piece,
    Result,
    Task,
    compute,
)
from experiments.analysis.ratings import make_ratings

_T = TypeVar("_T")

PIECE_UNITS = 25_000
"""Sessions of a piece. Part of what the hash of the events means: never change it alone."""
_ALONE = 8
"""So many pieces are read sooner than other processes have started."""
_AHEAD = 4
"""Pieces per process that are handed out before the first one's result is taken."""

_NEXT = """
SELECT unit FROM exposures WHERE experiment = :experiment AND version = :version AND unit > :after
ORDER BY unit LIMIT 1 OFFSET :n
"""
_NEXT_OF_ALL = "SELECT unit FROM exposures WHERE unit > :after ORDER BY unit LIMIT 1 OFFSET :n"
"""The same where no other exposures are: along the index of the units, a fifth of the table."""
_ALL_ARE_ITS = """
SELECT (SELECT MIN(experiment) FROM exposures) = :experiment
    AND (SELECT MAX(experiment) FROM exposures) = :experiment
    AND (SELECT MIN(version) FROM exposures WHERE experiment = :experiment) = :version
    AND (SELECT MAX(version) FROM exposures WHERE experiment = :experiment) = :version
    AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'exposures_by_unit')
"""
_LAST = """
SELECT MAX(unit) FROM exposures WHERE experiment = :experiment AND version = :version
AND unit > :after
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found in all pieces, in their order."""

    groups: list[Group] = field(default_factory=list)
    cells: list[CellSums] = field(default_factory=list)
    durations: list[Durations] = field(default_factory=list)
    events_sha256: str = ""


def survey(log: Log, task: Task) -> Survey:
    """Read all sessions of an experiment's version.

    Args:
        log: The event file; its snapshot is read, by other processes too.
        task: What is wanted; `until` and `usual` are set here.

    Raises:
        UnreadableLog: If the file cannot be read any more.
    """
    task = task._replace(
        until=log.last_place, usual=usual_assignments(log, task.experiment, task.version)
    )
    found = Survey()
    digest = hashlib.sha256(b"carril-events-3\n")
    for result in _results(log, task):
        found.groups.extend(result.groups)
        found.cells.extend(result.cells)
        found.durations.extend(result.durations)
        digest.update(result.digest)
    if not task.digest:
        return found
    return Survey(
        groups=found.groups,
        cells=found.cells,
        durations=found.durations,
        events_sha256=digest.hexdigest(),
    )


def _results(log: Log, task: Task) -> Iterator[Result]:
    pieces = _pieces(log, task)
    first = list(islice(pieces, _ALONE + 1))
    many = log.sharable and len(first) > _ALONE
    if not many:
        with closing(_ratings(log, task, None)) as db:
            for piece in chain(first, pieces):
                yield compute(log.reader, RowReader(db), task, piece)
        return
    with (
        tempfile.TemporaryDirectory(prefix="carril-analysis-") as folder,
        _workers(log.path, Path(folder) / "ratings.db") as (executor, n_workers),
    ):
        # They start while the votes are collected.
        starting = [executor.submit(os.getpid) for _ in range(n_workers)]
        _ratings(log, task, Path(folder) / "ratings.db").close()
        for future in starting:
            _taken(future, log.path)
        waiting: list[Future[Result]] = []
        for piece in chain(first, pieces):
            waiting.append(executor.submit(_in_worker, task, piece))
            if len(waiting) >= _AHEAD * n_workers:
                yield _taken(waiting.pop(0), log.path)
        for result in waiting:
            yield _taken(result, log.path)


def _pieces(log: Log, task: Task) -> Iterator[Piece]:
    """Yield the pieces: so many units each, in order."""
    keys = {"experiment": task.experiment, "version": task.version}
    following = _NEXT_OF_ALL if log.sharable and log.row(_ALL_ARE_ITS, keys)[0] else _NEXT
    after = ""
    while True:
        row = log.first(following, keys | {"after": after, "n": PIECE_UNITS - 1})
        last = log.row(_LAST, keys | {"after": after})[0] if row is None else row[0]
        if last is None:
            return
        yield Piece(after, last)
        after = last


def _ratings(log: Log, task: Task, path: Path | None) -> sqlite3.Connection:
    if task.digest or task.votes:
        return make_ratings(log, task.experiment, task.version, path)
    return make_ratings(log, "", -1, path)


@contextmanager
def _workers(path: Path, ratings: Path) -> Iterator[tuple[Executor, int]]:
    n_workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(
        n_workers,
        # A fork would have copies of the connections and threads of this process.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_in_worker,
        initargs=(path, ratings),
    ) as executor:
        try:
            yield executor, n_workers
        finally:
            executor.shutdown(cancel_futures=True)


def _taken(future: "Future[_T]", path: Path) -> _T:
    try:
        return future.result()
    except OSError:
        raise
    except Exception as error:  # of Arrow's driver, which has errors of its own
        raise UnreadableLog(f"{str(path)!r} cannot be read: {error}") from error


_paths: dict[str, Path] = {}
_open: dict[str, ArrowReader] = {}
"""What a worker process reads; closed with the process."""
_keep = ExitStack()


def _begin_in_worker(path: Path, ratings: Path) -> None:
    _paths.update(log=path, ratings=ratings)


def _in_worker(task: Task, piece: Piece) -> Result:
    if not _open:
        for name, path in _paths.items():
            _open[name] = _keep.enter_context(arrow_reader(path))
    return compute(_open["log"], _open["ratings"], task, piece)
