"""Labelled messages out of a dataset file: what classifiers of messages learn from."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from experiments.evaluation.errors import BadInput


class LabelledTexts(NamedTuple):
    """Messages and their intents."""

    texts: list[str]
    labels: list[str]
    sha256: str
    """Of the file."""


def read_training_texts(path: Path) -> LabelledTexts:
    """Read the last customer message and the intent of every conversation of a dataset file.

    Raises:
        BadInput: At the first line without both, or if fewer than two intents are in it.
    """
    texts, labels = [], []
    try:
        raw = path.read_bytes()
    except OSError as err:
        raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            said = [m["content"] for m in record["messages"] if m["role"] == "user"]
            texts.append(str(said[-1]))
            labels.append(str(record["intent"]))
        except (ValueError, KeyError, IndexError, TypeError) as err:
            raise BadInput(f"{path}:{number}: no conversation with an intent: {err!r}") from err
    if len(set(labels)) < 2:
        raise BadInput(f"{path}: a classifier needs two intents; it has {sorted(set(labels))}")
    return LabelledTexts(texts, labels, hashlib.sha256(raw).hexdigest())
