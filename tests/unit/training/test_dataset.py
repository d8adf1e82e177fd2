"""Datasets as files."""

import hashlib
import json
from pathlib import Path

from training.data.catalog import intent_names
from training.data.dataset import write_dataset
from training.data.generator import SCHEMA_VERSION, DataConfig

CONFIG = DataConfig(n_train=310)


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_dataset(CONFIG, tmp_path / "a")
    second = write_dataset(CONFIG, tmp_path / "b")
    assert first == second
    for name in ("train.jsonl", "heldout.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_manifest_describes_the_files(tmp_path: Path) -> None:
    manifest = write_dataset(CONFIG, tmp_path)
    for info in manifest.splits.values():
        data = (tmp_path / info.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == info.sha256
        assert len(data.splitlines()) == info.n_conversations == sum(info.per_intent.values())
    stored = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert stored["sha256"] == manifest.sha256


def test_lines_are_json_with_unescaped_spanish(tmp_path: Path) -> None:
    write_dataset(CONFIG, tmp_path)
    text = (tmp_path / "train.jsonl").read_text(encoding="utf-8")
    assert "ñ" in text
    assert "\\u" not in text
    record = json.loads(text.splitlines()[0])
    assert record["schema_version"] == SCHEMA_VERSION
    assert record["messages"][-1]["role"] == "assistant"


def test_suites_have_the_written_messages_and_inventory_questions(tmp_path: Path) -> None:
    manifest = write_dataset(CONFIG, tmp_path)
    items = {
        name: [json.loads(line) for line in (tmp_path / info.file).read_text("utf-8").splitlines()]
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
