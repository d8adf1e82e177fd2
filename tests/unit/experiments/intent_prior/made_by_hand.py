"""A small prior, made by hand: a word for each of three intents."""

import json
from pathlib import Path

import numpy as np

from experiments.intent_prior.features import features_of
from experiments.intent_prior.table import PriorTable, pack

WORDS = {"adios": "despedida", "fotos": "fotos_video", "hola": "saludo"}


def made_by_hand(words: dict[str, str] = WORDS, *, temperature: float = 0.5) -> PriorTable:
    """Return a prior that knows single words, each of which says 1 for an intent and -1 for others.

    Args:
        words: The words and their intents.
        temperature: Of the prior.
    """
    labels = tuple(sorted(set(words.values())))
    known = sorted((next(iter(features_of(word).words)), intent) for word, intent in words.items())
    weights = np.full((len(known), len(labels)), -127, dtype=np.int8)
    for row, (_, intent) in enumerate(known):
        weights[row, labels.index(intent)] = 127
    return PriorTable(
        labels=labels,
        hashes=np.array([word for word, _ in known], dtype=np.uint32),
        messages_with=np.ones(len(known), dtype=np.uint32),
        weights=weights,
        scales=np.full(len(labels), 1 / 127, dtype=np.float32),
        intercepts=np.zeros(len(labels), dtype=np.float32),
        temperature=temperature,
        n_messages=10,
        training_sha256="0" * 64,
    )


def with_prior(folder: Path, *, weight: float = 1.0, temperature: float = 0.5) -> str:
    """Write a profile with a prior; return its folder."""
    folder.mkdir(exist_ok=True)
    schema = {"properties": {"intent": {"enum": ["saludo", "fotos_video", "despedida"]}}}
    (folder / "answer.schema.json").write_text(json.dumps(schema), encoding="utf-8")
    options = f"intent_prior: p.npz\nintent_prior_weight: {weight}\n"
    (folder / "profile.yaml").write_text(options, encoding="utf-8")
    (folder / "p.npz").write_bytes(pack(made_by_hand(temperature=temperature)))
    return str(folder)
