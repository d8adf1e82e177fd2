"""Reading a log in pieces: the same to the last bit, by one process or by several."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from experiments.analysis import exposures
from experiments.analysis.columns import NUMBER, TEXT, WHOLE, RowReader, arrow_reader, places_in
from experiments.analysis.errors import UnreadableLog
from experiments.analysis.fingerprint import events_sha256
from experiments.analysis.history import groups
from experiments.analysis.log import open_log
from experiments.analysis.pieces import Task
from experiments.analysis.result import Analysis
from experiments.analysis.run import Options, analyse
from experiments.analysis.survey import Survey, survey
from experiments.events.store import EventStore
from tests.unit.experiments.analysis.sessions import DAY, START, declaration, traffic, write
from tests.unit.experiments.events.builders import exposure, feedback, outcome

NOW = START + 30 * DAY
SHA = "ac213f132d4b5a71317a7d6c67e9545b"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Cut small pieces, to be read by this process alone or by others."""
    monkeypatch.setattr("experiments.analysis.survey.PIECE_UNITS", 40)

    def by(others: bool) -> None:
        monkeypatch.setattr("experiments.analysis.survey._ALONE", 2 if others else 1000)

    return by


def analysed(path: Path) -> Analysis:
    return analyse(path, "exp", declaration(), Options(now=NOW, slices=True))


def test_several_processes_find_what_one_finds(
    tmp_path: Path, small_pieces: Callable[[bool], None]
) -> None:
    path = write(tmp_path / "e.db", traffic(400, errors=(0.1, 0.2)))
    small_pieces(False)
    alone = analysed(path)
    small_pieces(True)
    assert analysed(path) == alone
    assert alone.counts["control"].units + alone.counts["treatment"].units == 400


def test_pieces_add_up_to_the_whole(
    tmp_path: Path, small_pieces: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "e.db", traffic(300, errors=(0.1, 0.2)))
    small_pieces(False)
    cut = analysed(path)
    monkeypatch.setattr("experiments.analysis.survey.PIECE_UNITS", 50_000)
    whole = analysed(path)
    assert cut.counts == whole.counts
    assert cut.phases == whole.phases
    for one, other in zip(cut.evidence.metrics, whole.evidence.metrics, strict=True):
        assert one.effect == pytest.approx(other.effect, rel=1e-12)
    assert cut.evidence.events_sha256 != whole.evidence.events_sha256, "pieces are in the hash"


def test_rare_assignments_are_read_like_usual_ones(
    tmp_path: Path, small_pieces: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = traffic(300, errors=(0.1, 0.2))
    rare = [exposure(f"r{n}", config_hash=f"old{n % 3}", exposed_at=START) for n in range(7)]
    path = write(tmp_path / "e.db", [*events, *rare])
    small_pieces(True)
    whole = analysed(path)
    for sampled, told in (("LIMIT 2000", "LIMIT 0"), ("LIMIT 12", "LIMIT 1")):
        sql = exposures._USUAL_ONES
        assert sampled in sql
        with monkeypatch.context() as patch:
            patch.setattr(exposures, "_USUAL_ONES", sql.replace(sampled, told))
            assert analysed(path) == whole
    with open_log(path) as log:
        found = groups(log, "exp", 1)
    assert sum(g.n_units for g in found if g.config_hash.startswith("old")) == 7
    assert len({g.config_hash for g in found}) == 4


@pytest.mark.parametrize("width", [4, 9, 40])
def test_places_are_found_by_one_length_or_many(width: int) -> None:
    names = sorted({f"{n * 7919 % 10_007:0{width}d}" for n in range(500)})
    asked = sorted([*names[::2], *names[::3], "0" * width + "x", "x" * width, "~" * width])
    expected = [names.index(name) if name in names else -1 for name in asked]
    for more in ([], ["zz"]):
        keys = pa.chunked_array([names + more])
        assert places_in(pa.chunked_array([asked]), keys).tolist() == expected
        same = [name for name in asked if len(name) == width]
        wanted = [expected[i] for i, name in enumerate(asked) if len(name) == width]
        assert places_in(pa.chunked_array([same]), keys).tolist() == wanted


def test_more_rows_than_types_are_guessed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "e.db",
        [outcome(f"c{n:03d}", unit="u", ttft_s=None if n < 90 else 0.5) for n in range(100)],
    )
    monkeypatch.setattr("experiments.analysis.columns._ROWS", 4)
    schema = pa.schema([("inference_id", TEXT), ("ttft_s", NUMBER)])
    sql = "SELECT inference_id, ttft_s FROM outcomes ORDER BY inference_id"
    with closing(sqlite3.connect(path)) as db:
        rows = RowReader(db).read(sql, {}, schema)
    with arrow_reader(path) as reader:
        assert reader.read(sql, {}, schema).equals(rows)
        assert reader.read(sql, {}, schema).equals(rows)


def test_both_drivers_read_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.db",
        [outcome("c1", unit="ñ👍", ttft_s=None), outcome("c2", unit="b", completion_tokens=None)],
    )
    schema = pa.schema(
        [("unit", TEXT), ("tokens", WHOLE), ("ttft_s", NUMBER), ("intent", TEXT), ("n", WHOLE)]
    )
    sql = (
        "SELECT unit, completion_tokens, ttft_s, intent, :n FROM outcomes "
        "WHERE finished_at > :since AND version = :version ORDER BY unit"
    )
    for since in (0.0, 1e12):
        values = {"version": 1, "since": since, "n": 7}
        with closing(sqlite3.connect(path)) as db:
            rows = RowReader(db).read(sql, values, schema)
        with arrow_reader(path) as reader:
            assert reader.read(sql, values, schema).equals(rows)
    assert rows.num_rows == 0


CHANGES = {
    "variant": "UPDATE exposures SET variant = 'x' WHERE unit = 'u1'",
    "moment": "UPDATE exposures SET exposed_at = exposed_at + 1e-6 WHERE unit = 'u1'",
    "bucket": "UPDATE exposures SET bucket = 7 WHERE unit = 'u1'",
    "model": "UPDATE exposures SET model_sha256 = '' WHERE unit = 'u1'",
    "unit": "UPDATE exposures SET unit = 'u3' WHERE unit = 'u1'",
    "one exposure less": "DELETE FROM exposures WHERE unit = 'u2'",
    "status": "UPDATE outcomes SET status = 'error' WHERE inference_id = 'c1'",
    "duration": "UPDATE outcomes SET duration_s = duration_s * 1.0000001",
    "no confidence": "UPDATE outcomes SET confidence = NULL",
    "one outcome less": "DELETE FROM outcomes WHERE inference_id = 'c1'",
    "vote": "UPDATE feedback SET value = 0 WHERE feedback_id = 'f1'",
    "conflict": "UPDATE exposure_conflicts SET exposed_at = 1",
}


@pytest.mark.parametrize("change", CHANGES)
def test_hash_changes_with_whatever_the_analysis_reads(tmp_path: Path, change: str) -> None:
    path = write(
        tmp_path / "e.db",
        [
            *(exposure(f"u{n}") for n in (1, 2)),
            exposure("u2", variant="candidate"),
            outcome("c1", confidence=0.0),
            outcome("c2", unit="u2", confidence=0.5),
            feedback("f1", target="c1", value=1.0),
            feedback("f2", target="u2", value=1.0, level="episode"),
        ],
    )
    before = _hash(path)
    assert _hash(path) == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(CHANGES[change]).rowcount > 0
        db.commit()
    assert _hash(path) != before


def test_hash_is_of_the_experiments_own_events(tmp_path: Path) -> None:
    path = write(tmp_path / "e.db", [exposure("u1"), outcome("c1")])
    before = _hash(path)
    store = EventStore(path)
    store.append(
        [exposure("u1", version=2), exposure("u9", experiment="other"), feedback(target="none")]
    )
    store.close()
    assert _hash(path) == before
    # What every platform must reproduce; it changes with the scheme and with nothing else.
    assert before[:32] == SHA


def _hash(path: Path) -> str:
    with open_log(path) as log:
        return events_sha256(log, "exp", 1)


def test_events_that_come_while_it_reads_are_left_out(
    tmp_path: Path, small_pieces: Callable[[bool], None]
) -> None:
    path = write(tmp_path / "e.db", traffic(300))
    small_pieces(True)
    task = Task("exp", 1, until=None, keys=("day",), digest=True)
    with open_log(path) as log:
        before = survey(log, task)
        store = EventStore(path)
        store.append(traffic(300, seed=2))
        store.close()
        same = survey(log, task)
    assert same.events_sha256 == before.events_sha256
    assert _units(same) == 300
    with open_log(path) as log:
        assert _units(survey(log, task)) == 600


def _units(found: Survey) -> int:
    return sum(group.n_units for group in found.groups)


def test_a_file_that_breaks_while_it_is_read_is_an_error(
    tmp_path: Path, small_pieces: Callable[[bool], None]
) -> None:
    path = write(tmp_path / "e.db", traffic(300))
    small_pieces(True)
    with open_log(path) as log:
        path.rename(tmp_path / "moved.db")
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(UnreadableLog, match=r"e\.db' cannot be read"):
            survey(log, Task("exp", 1, until=None))
