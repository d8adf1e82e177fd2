"""Faults of a dataset are told by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.lora.dataset import MAX_FAULTS, DatasetError, read_dataset


def conversation(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "sí"}]
    return {"messages": messages, **fields}


def write(folder: Path, **splits: list[Any]) -> Path:
    for name, records in splits.items():
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def faults(folder: Path) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    return list(caught.value.faults)


def test_a_good_dataset_is_read_in_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[conversation("a", id="1", intent="x", family="f1"), conversation("b")],
        dev=[conversation("c", intent="x", register="street", noise=["caps"])],
    )
    dataset = read_dataset(tmp_path)
    assert [e.messages[0].content for e in dataset.train] == ["a", "b"]
    assert dataset.dev[0].register_ == "street"
    assert dataset.dev[0].answer == "sí"
    assert dataset.heldout == ()
    assert set(dataset.hashes) == {"train.jsonl", "dev.jsonl"}


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    write(tmp_path, train=[conversation("a")], dev=[conversation("c")])
    before = read_dataset(tmp_path).sha256
    write(tmp_path, train=[conversation("b")])
    assert read_dataset(tmp_path).sha256 != before


def test_broken_lines_are_named(tmp_path: Path) -> None:
    roles = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    bad = [conversation("a"), '{"messages": [', {"messages": roles}, {"text": "b"}, "[1]"]
    write(tmp_path, train=bad, dev=[conversation("c")])
    found = faults(tmp_path)
    assert [fault.split(": ")[0] for fault in found] == [f"train.jsonl:{n}" for n in (2, 3, 4, 5)]
    assert "no JSON" in found[0]
    assert "roles must be user and assistant in turns" in found[1]
    assert "messages: Field required" in found[2]


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    write(tmp_path, train=[conversation("a")], dev=[conversation("c")])
    with (tmp_path / "train.jsonl").open("ab") as file:
        file.write(b'{"id": "\xff"}\n')
    assert faults(tmp_path) == ["train.jsonl:2: no UTF-8 at byte 8"]


def test_repeated_ids_are_named_with_the_first(tmp_path: Path) -> None:
    write(tmp_path, train=[conversation("a", id="1")], dev=[conversation("c", id="1")])
    assert faults(tmp_path) == ["dev.jsonl:1: id '1' is that of train.jsonl:1"]


def test_a_family_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[conversation("a", family="f")],
        dev=[conversation("c")],
        heldout=[conversation("b"), conversation("d", family="f")],
    )
    assert faults(tmp_path) == ["heldout.jsonl:2: family 'f' is trained on: train.jsonl:1"]


def test_a_question_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    write(tmp_path, train=[conversation("¿Precio?")], dev=[conversation("¿precio? ")])
    assert faults(tmp_path) == ["dev.jsonl:1: the same question is trained on: train.jsonl:1"]


def test_an_intent_without_training_conversations_is_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[conversation("a", intent="saludo")],
        dev=[conversation("b", intent="saludo"), conversation("c", intent="abuso")],
    )
    assert faults(tmp_path) == [
        "train.jsonl has no conversation of the intent 'abuso' (dev.jsonl:2 has)"
    ]


def test_missing_and_empty_splits_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n")
    assert faults(tmp_path) == [
        "train.jsonl has no conversation",
        f"{tmp_path / 'dev.jsonl'} is missing",
    ]


def test_a_message_stays_readable_whatever_the_number_of_faults(tmp_path: Path) -> None:
    write(tmp_path, train=["{"] * 100, dev=[conversation("c")])
    with pytest.raises(DatasetError, match="101 faults") as caught:
        read_dataset(tmp_path)
    assert len(str(caught.value).splitlines()) == MAX_FAULTS + 2
