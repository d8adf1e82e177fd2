import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.intent_prior import table as module
from experiments.intent_prior.errors import PriorError
from experiments.intent_prior.table import PriorTable, pack, read_bytes, unpack


def rewritten(data: bytes, **members: bytes | None) -> bytes:
    """Return an archive with other members; None takes one out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        for info in old.infolist():
            content = members.get(info.filename.removesuffix(".npy"), old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return packed.getvalue()


def npy(value: object, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(value), allow_pickle=pickled)
    return file.getvalue()


def test_a_table_comes_back_as_it_was(table: PriorTable) -> None:
    again = unpack(pack(table), where="p.npz")
    assert (again.labels, again.temperature, again.n_messages, again.training_sha256) == (
        table.labels,
        table.temperature,
        table.n_messages,
        table.training_sha256,
    )
    for name in ("hashes", "messages_with", "weights", "scales", "intercepts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))


def test_a_file_of_the_first_format_stays_one(table: PriorTable) -> None:
    old = replace(table, format=1)
    assert unpack(pack(old), where="p.npz").format == 1
    assert unpack(pack(table), where="p.npz").format == 2


def test_the_bytes_do_not_depend_on_the_time_of_day(table: PriorTable) -> None:
    data = pack(table)
    assert data == pack(table)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_numpy_reads_the_file_without_pickles(table: PriorTable, tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(pack(table))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert archive["labels"].tolist() == list(table.labels)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda data: b"no archive", "no intent prior", id="foreign"),
        pytest.param(lambda data: b"", "no intent prior", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], "no intent prior", id="cut"),
        pytest.param(lambda d: d[:600] + bytes(40) + d[640:], "no intent prior", id="bits"),
        pytest.param(lambda d: rewritten(d, weights=None), "it has no weights", id="missing"),
        pytest.param(lambda d: rewritten(d, weights=b"x"), "no intent prior", id="no array"),
        pytest.param(
            lambda d: rewritten(d, format=npy(np.uint32(3))),
            "format is 3, this version reads 1 and 2",
            id="newer",
        ),
        pytest.param(
            lambda d: rewritten(d, labels=npy(np.array([{}, 1], dtype=object), pickled=True)),
            "no intent prior",
            id="pickle",
        ),
        pytest.param(
            lambda d: rewritten(d, scales=npy(np.zeros(3))), "scales is float64", id="type"
        ),
        pytest.param(
            lambda d: rewritten(d, scales=npy(np.zeros(2, np.float32))), "scales", id="length"
        ),
        pytest.param(
            lambda d: rewritten(d, weights=npy(np.zeros((1, 3), np.int8))), "weights", id="rows"
        ),
        pytest.param(
            lambda d: rewritten(d, hashes=npy(np.array([3, 2, 1], np.uint32))), "order", id="order"
        ),
        pytest.param(
            lambda d: rewritten(d, temperature=npy(np.float64("nan"))), "temperature", id="nan"
        ),
        pytest.param(
            lambda d: rewritten(d, intercepts=npy(np.full(3, np.inf, np.float32))),
            "intercepts",
            id="infinite",
        ),
        pytest.param(
            lambda d: rewritten(d, labels=npy(np.array(["a", "a", "b"]))), "labels", id="twice"
        ),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_name(table: PriorTable, damage, says) -> None:
    with pytest.raises(PriorError, match=says) as caught:
        unpack(damage(pack(table)), where="folder/p.npz")
    assert "folder/p.npz" in caught.value.message


def test_a_missing_or_too_large_file_is_refused(
    table: PriorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PriorError, match=r"gone\.npz.*cannot be read") as caught:
        read_bytes(tmp_path / "gone.npz")
    assert "carril eval prior" in (caught.value.fix or "")
    (tmp_path / "p.npz").write_bytes(pack(table))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    with pytest.raises(PriorError, match="bytes; 100 are the most"):
        read_bytes(tmp_path / "p.npz")


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(
    table: PriorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(table, training_sha256="0" * 64, labels=(*table.labels[:2], "x" * 100_000))
    monkeypatch.setattr(module, "_MAX_UNPACKED_BYTES", 50_000)
    assert len(pack(large)) < 50_000
    with pytest.raises(PriorError, match="unpacks to"):
        unpack(pack(large), where="p.npz")
