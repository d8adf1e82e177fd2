"""Datasets as files."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.evaluation.errors import BadInput
from experiments.evaluation.items import read_suite
from training.data.catalog import Register, intent_names, load_catalog, normalise, readings
from training.data.dataset import (
    DatasetManifest,
    dataset_sha256,
    kept_dataset,
    write_dataset,
)
from training.data.families import similar_pairs
from training.data.generator import SCHEMA_VERSION, DataConfig
from training.data.suites import JUDGED_SUITES, WrittenSuite, written_messages

CONFIG = DataConfig(n_train=310)


class Written(NamedTuple):
    folder: Path
    manifest: DatasetManifest


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("dataset")
    return Written(folder, write_dataset(CONFIG, folder))


def test_the_same_configuration_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    assert write_dataset(CONFIG, tmp_path) == written.manifest
    for name in ("train.jsonl", "heldout.jsonl", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (written.folder / name).read_bytes()


def test_a_dataset_is_kept_as_long_as_making_it_again_would_change_nothing(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(written.folder, folder)
    assert kept_dataset(CONFIG, folder) == written.manifest
    assert kept_dataset(CONFIG.model_copy(update={"n_train": 311}), folder) is None
    assert kept_dataset(CONFIG, tmp_path) is None

    heldout = folder / "heldout.jsonl"
    text = heldout.read_text(encoding="utf-8")
    heldout.write_text(text + "\n", encoding="utf-8")
    assert kept_dataset(CONFIG, folder) is None
    heldout.write_text(text, encoding="utf-8")
    assert kept_dataset(CONFIG, folder) is not None
    (folder / "suites" / "golden.jsonl").unlink()
    assert kept_dataset(CONFIG, folder) is None

    monkeypatch.setattr("training.data.dataset.sources_sha256", lambda: "0" * 64)
    assert kept_dataset(CONFIG, written.folder) is None


def test_the_manifest_describes_the_files(written: Written) -> None:
    folder, manifest = written
    for info in manifest.splits.values():
        data = (folder / info.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == info.sha256
        assert len(data.splitlines()) == info.n_conversations == sum(info.per_intent.values())
    stored = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert stored["sha256"] == manifest.sha256


def test_lines_are_json_with_unescaped_spanish(written: Written) -> None:
    text = (written.folder / "train.jsonl").read_text(encoding="utf-8")
    assert "ñ" in text
    assert "\\u" not in text
    record = json.loads(text.splitlines()[0])
    assert record["schema_version"] == SCHEMA_VERSION
    assert record["messages"][-1]["role"] == "assistant"


def test_suites_have_the_written_messages_and_inventory_questions(written: Written) -> None:
    folder, manifest = written
    items = {
        name: [json.loads(line) for line in (folder / info.file).read_text("utf-8").splitlines()]
        for name, info in manifest.suites.items()
    }
    assert len(items["golden"]) >= 1500
    assert len(items["blind"]) >= 1200
    for suite in ("golden", "blind"):
        assert {i["intent"] for i in items[suite]} == set(intent_names())
    assert all(item["inventory"] for item in items["grounding"])
    assert all(item["messages"][-1]["role"] == "user" for s in items.values() for item in s)
    for name, info in manifest.suites.items():
        assert info.n_items == len({item["id"] for item in items[name]})


def test_natural_messages_stand_beside_the_splits_and_are_no_suite(written: Written) -> None:
    folder, manifest = written
    assert manifest.natural is not None
    path = folder / manifest.natural.file
    assert path == folder / "natural.jsonl"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.natural.sha256
    assert set(manifest.suites) == {"heldout", "golden", "blind", "grounding"}
    assert {p.stem for p in (folder / "suites").iterdir()} == set(manifest.suites)
    with pytest.raises(BadInput, match=r"natural\.jsonl:1"):
        read_suite(path, intents=intent_names())
    hashes = [info.sha256 for info in manifest.splits.values()]
    hashes += [info.sha256 for info in manifest.suites.values()]
    assert manifest.sha256 == dataset_sha256(hashes)


def test_natural_messages_are_of_every_intent_and_register(written: Written) -> None:
    lines = (written.folder / "natural.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) >= 600
    assert written.manifest.natural is not None
    assert len(records) == written.manifest.natural.n_items == len({r["id"] for r in records})
    kinds = {(r["intent"], r["register"]) for r in records}
    assert kinds == {(intent, str(r)) for intent in intent_names() for r in Register}
    assert all([m["role"] for m in r["messages"]] == ["user"] for r in records)


def test_natural_messages_are_said_nowhere_else() -> None:
    natural = [normalise(message.text) for message in written_messages(WrittenSuite.NATURAL)]
    assert len(set(natural)) == len(natural)
    phrases = {reading for p in load_catalog().patterns for reading in readings(p.text)}
    assert phrases.isdisjoint(natural)
    judged = [normalise(m.text) for suite in JUDGED_SUITES for m in written_messages(suite)]
    pairs = similar_pairs([[text] for text in natural + judged], threshold=0.8)
    close = [(natural[a], judged[b - len(natural)]) for a, b in pairs if a < len(natural) <= b]
    assert close == []
