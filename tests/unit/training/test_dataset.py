"""Datasets as files."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from training.data.catalog import intent_names
from training.data.dataset import DatasetManifest, write_dataset
from training.data.generator import SCHEMA_VERSION, DataConfig

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
