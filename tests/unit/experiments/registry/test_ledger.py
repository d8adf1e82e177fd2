"""The ledger: a chain that shows every change to its past, and survives a crash."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.registry.errors import BrokenLedger, RegistryBusy
from experiments.registry.ledger import GENESIS, Ledger
from experiments.registry.lock import HeldLock, locked
from experiments.registry.records import Alias, Kind, LedgerEntry, VersionRef
from experiments.registry.store import Registry

AT = "2026-11-25T12:00:00Z"


def ref(version: str) -> VersionRef:
    return VersionRef(version=version, sha256=version[0] * 64)


def fields(version: str) -> dict[str, object]:
    return {
        "at": AT,
        "actor": "ana",
        "kind": Kind.PROMOTE,
        "model": "okla",
        "alias": Alias.CHAMPION,
        "target": ref(version),
        "reason": "más precisa",
    }


@contextmanager
def holding(root: Path, last_token: int = 0) -> Iterator[HeldLock]:
    with locked(root / "ledger.lock", last_token=last_token, timeout_s=1.0) as lock:
        yield lock


def append(root: Path, version: str) -> LedgerEntry:
    ledger = Ledger(root)
    entries = ledger.entries()
    with holding(root, entries[-1].token if entries else 0) as lock:
        return ledger.append(fields(version), entries, lock)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        append(tmp_path, version)
    return tmp_path


def lines(root: Path) -> list[str]:
    return (root / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def rewrite(root: Path, content: list[str]) -> None:
    (root / "ledger.jsonl").write_text("".join(content), encoding="utf-8")


def test_each_line_names_the_one_before(root: Path) -> None:
    entries = Ledger(root).entries()
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert [entry.prev_hash for entry in entries] == [GENESIS, entries[0].hash, entries[1].hash]
    assert [entry.token for entry in entries] == [1, 2, 3]


def _edit(content: list[str]) -> list[str]:
    return [content[0], content[1].replace("ana", "eva"), content[2]]


def _forge(content: list[str]) -> list[str]:
    from experiments.registry.canonical import canonical_json, canonical_sha256

    document = json.loads(content[1]) | {"actor": "eva"}
    document.pop("hash")
    document["hash"] = canonical_sha256(document)
    return [content[0], canonical_json(document) + "\n", content[2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_edit, "line 2 was altered", id="a word changed"),
        pytest.param(_forge, "line 3 does not follow", id="changed and hashed again"),
        pytest.param(lambda c: [c[0], c[2]], "line 2 does not follow", id="one removed"),
        pytest.param(lambda c: [c[1], c[0], c[2]], "line 1 does not follow", id="swapped"),
        pytest.param(lambda c: [*c, c[2]], "line 4 does not follow", id="one doubled"),
        pytest.param(lambda c: c[:2], "line 3 with hash .* is missing", id="end cut off"),
        pytest.param(lambda _c: [], "line 3 with hash .* is missing", id="emptied"),
        pytest.param(lambda c: [c[0], "{}\n", c[2]], "line 2 is no ledger entry", id="no entry"),
        pytest.param(lambda c: [c[0], "\n", *c[1:]], "line 2 is no ledger entry", id="blank line"),
    ],
)
def test_a_changed_past_is_noticed(
    root: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    rewrite(root, change(lines(root)))
    with pytest.raises(BrokenLedger, match=message):
        Ledger(root).entries()
    with pytest.raises(BrokenLedger):
        append(root, "4.0.0")


def test_a_torn_last_line_does_not_count_and_the_next_one_replaces_it(root: Path) -> None:
    whole = lines(root)
    with (root / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"actor":"ana","alias":"champion","at":"2026-11-25T' + "x" * 2000)
    assert len(Ledger(root).entries()) == 3
    assert Ledger(root).torn_bytes() > 2000
    append(root, "4.0.0")
    assert lines(root)[:3] == whole
    assert len(lines(root)) == 4
    assert Ledger(root).torn_bytes() == 0


def test_a_line_written_just_before_a_crash_counts(root: Path) -> None:
    head = (root / "ledger.head.json").read_bytes()
    append(root, "4.0.0")
    (root / "ledger.head.json").write_bytes(head)
    assert len(Ledger(root).entries()) == 4


def test_a_line_appended_while_the_others_are_read_is_no_fault(root: Path) -> None:
    class Slow(Ledger):
        """Somebody else appends just after the lines were read."""

        appended = False

        def _raw(self) -> bytes:
            raw = super()._raw()
            if not self.appended:
                self.appended = True
                append(root, "4.0.0")
            return raw

    assert len(Slow(root).entries()) == 3
    assert len(Ledger(root).entries()) == 4


def test_without_its_head_a_ledger_may_have_lost_its_end(root: Path) -> None:
    (root / "ledger.head.json").unlink()
    with pytest.raises(BrokenLedger, match=r"ledger.head.json is missing"):
        Ledger(root).entries()


def test_a_crash_after_the_very_first_line_is_none_of_that(tmp_path: Path) -> None:
    append(tmp_path, "1.0.0")
    (tmp_path / "ledger.head.json").unlink()
    append(tmp_path, "2.0.0")
    assert len(Ledger(tmp_path).entries()) == 2


def test_a_line_whose_head_cannot_be_written_does_not_count(root: Path) -> None:
    before = (root / "ledger.jsonl").read_bytes()
    (root / f".ledger.head.json.{os.getpid()}.tmp").mkdir()  # as on a disk that is full
    with pytest.raises(OSError, match=r"ledger\.head\.json"):
        append(root, "4.0.0")
    assert (root / "ledger.jsonl").read_bytes() == before


def test_an_unreadable_head_is_an_error(root: Path) -> None:
    (root / "ledger.head.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BrokenLedger, match=r"ledger.head.json cannot be read"):
        Ledger(root).entries()


def test_a_second_writer_waits_and_gives_up(root: Path) -> None:
    with (
        Registry(root).writing(),
        pytest.raises(RegistryBusy, match="another process has held"),
        Registry(root).writing(timeout_s=0.1),
    ):
        pass


def test_whoever_lost_the_lock_file_may_not_write(root: Path) -> None:
    """A deleted lock file lets a second writer in; the first one must notice."""
    ledger = Ledger(root)
    entries = ledger.entries()
    with holding(root, 3) as first:
        (root / "ledger.lock").unlink()
        with holding(root, 3) as second:
            ledger.append(fields("4.0.0"), entries, second)
        with pytest.raises(RegistryBusy, match="taken over"):
            ledger.append(fields("5.0.0"), entries, first)
    assert [entry.target.version for entry in ledger.entries()][3:] == ["4.0.0"]


def test_the_token_grows_even_when_the_lock_file_is_new(root: Path) -> None:
    (root / "ledger.lock").unlink()
    with Registry(root).writing() as transaction:
        entry = transaction.append(
            actor="ana", kind=Kind.RETIRE, model="okla", target=ref("1.0.0"), reason="x"
        )
    assert entry.token == 4


def test_a_line_of_a_newer_carril_is_not_misread(root: Path) -> None:
    content = lines(root)
    rewrite(root, [content[0].replace('"schema_version":1', '"schema_version":2'), *content[1:]])
    with pytest.raises(BrokenLedger, match="schema_version"):
        Ledger(root).entries()
