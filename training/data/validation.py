"""Checks of a generated dataset and of the sources it is made from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from training.contract import parse_answer
from training.data.catalog import Split, intent_names, load_catalog, normalise
from training.data.dataset import DatasetManifest, SplitInfo, SuiteInfo, dataset_sha256
from training.data.facts import load_facts
from training.data.families import similar_pairs
from training.data.suites import WrittenSuite, written_messages

_MAX_PROBLEMS = 20


class NearDuplicates(NamedTuple):
    """How many messages of a hand-written set stand close to one that is trained on."""

    suite: WrittenSuite
    n_messages: int
    n_near: int
    """At least 0.8 alike (Jaccard of character 4-grams)."""
    examples: tuple[tuple[str, str], ...]


def validate_dataset(folder: Path) -> list[str]:
    """Return what is wrong with a dataset folder, at most 20 problems, none if it is sound.

    Hashes, counts, broken lines with their number, double ids, answers that break the contract,
    empty classes, families that stand in two splits.
    """
    try:
        manifest = DatasetManifest.model_validate_json(
            (folder / "manifest.json").read_text(encoding="utf-8")
        )
    except (OSError, ValidationError) as err:
        return [f"{folder / 'manifest.json'}: {err}"]
    problems = list(_hash_problems(folder, manifest))
    records: dict[str, list[dict[str, Any]]] = {}
    for split, info in manifest.splits.items():
        records[split] = []
        problems += _read_split(folder / info.file, records[split])
    problems += _split_problems(records)
    return problems[:_MAX_PROBLEMS]


def validate_sources() -> list[str]:
    """Return replies that contain figures which go out of date (see `facts.yaml`)."""
    figures = {figure: fact.id for fact in load_facts() for figure in fact.figures}
    return [
        f"replies.yaml: {intent}: {template!r} contains {figure!r} of the fact {figures[figure]!r}"
        for intent, replies in load_catalog().replies.items()
        for template in replies.formal + replies.street
        for figure in figures
        if figure in template
    ]


def near_duplicates(folder: Path, suite: WrittenSuite) -> NearDuplicates:
    """Compare a hand-written set with every message of the training split.

    Args:
        folder: A dataset.
        suite: The set.
    """
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    trained = sorted({json.loads(line)["messages"][-2]["content"] for line in lines})
    written = [message.text for message in written_messages(suite)]
    texts = [[normalise(text)] for text in written + trained]
    near: dict[int, int] = {}
    for first, second in similar_pairs(texts, threshold=0.8):
        if first < len(written) <= second:
            near.setdefault(first, second - len(written))
    examples = tuple((written[a], trained[b]) for a, b in sorted(near.items())[:10])
    return NearDuplicates(suite, len(written), len(near), examples)


def _hash_problems(folder: Path, manifest: DatasetManifest) -> Iterator[str]:
    infos: list[SplitInfo | SuiteInfo] = [*manifest.splits.values(), *manifest.suites.values()]
    for info in [*infos, *([manifest.natural] if manifest.natural else [])]:
        try:
            actual = hashlib.sha256((folder / info.file).read_bytes()).hexdigest()
        except OSError as err:
            yield f"{info.file}: {err}"
            continue
        if actual != info.sha256:
            yield f"{info.file}: SHA-256 is {actual}, the manifest says {info.sha256}"
    if manifest.sha256 != dataset_sha256(info.sha256 for info in infos):
        yield f"manifest.json: sha256 {manifest.sha256} is not that of its files"


def _read_split(path: Path, records: list[dict[str, Any]]) -> Iterator[str]:
    ids: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        yield f"{path.name}: {err}"
        return
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}:{number}"
        try:
            record = json.loads(line)
            answer = parse_answer(record["messages"][-1]["content"])
            identity, intent = str(record["id"]), str(record["intent"])
            str(record["family"])
        except (json.JSONDecodeError, KeyError, IndexError, TypeError) as err:
            yield f"{where}: not a conversation ({type(err).__name__}: {err})"
            continue
        if identity in ids:
            yield f"{where}: id {identity!r} is that of line {ids[identity]}"
        ids[identity] = number
        if answer is None or answer.intent != intent:
            yield f"{where}: the answer breaks the contract or is not of intent {intent!r}"
        records.append(record)


def _split_problems(records: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for split, found in records.items():
        counts = Counter(record["intent"] for record in found)
        for intent in intent_names():
            if not counts[intent]:
                yield f"{split}: no conversation of intent {intent!r}"
    trained = records.get(Split.TRAIN, [])
    families = {record["family"] for record in trained}
    for split in (Split.DEV, Split.HELDOUT):
        leaked = sorted({r["family"] for r in records.get(split, [])} & families)
        if leaked:
            yield f"{split}: {len(leaked)} phrase families are trained on, first {leaked[0]!r}"
