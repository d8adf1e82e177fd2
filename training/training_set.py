"""The file that a training learns from: made once, where the data is, and read where the GPU is."""

import hashlib
import io
import json
import zlib
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from experiments.whole_file import opened_whole
from training.config import TrainConfig
from training.errors import ArtefactError
from training.exercises import TrainingSet
from training.packed import PackedExamples

TRAINING_SET = "training_set.npz"
_FORMAT = 2
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    NotImplementedError,
    BadZipFile,
    zlib.error,
)
"""What reading a damaged file raises, depending on where the damage is."""


def write_training_set(data: TrainingSet, config: TrainConfig, path: Path, *, made_of: str) -> None:
    """Write what a configuration learns from.

    Args:
        data: Its conversations and messages; `bags` are not written, they follow from the messages.
        config: Its hash goes along.
        path: The file, which appears whole or not at all.
        made_of: Hash of everything else that it was made from: phrases, code, prompt, tokenizer.
    """
    about = {
        "format": _FORMAT,
        "config_sha256": config.sha256(),
        "made_of": made_of,
        "prefix": list(data.prefix),
        "system_ids": list(data.system_ids),
        "around": list(data.around),
        "n_after": data.n_after,
        "label_ids": list(data.label_ids),
        "lost_id": data.lost_id,
        "pieces": list(data.pieces),
    }
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8),
        "openings_tokens": np.array([t for ids in data.openings for t in ids], np.int32),
        "openings_ends": np.cumsum([len(ids) for ids in data.openings], dtype=np.int64),
    }
    for name, examples in (("answers", data.answers), ("intents", data.intents)):
        packed = PackedExamples.of(examples)
        arrays[f"{name}_prefix"] = np.array(packed.prefix, np.int32)
        arrays[f"{name}_tokens"] = _narrow(packed.tokens)
        arrays[f"{name}_learn"] = np.packbits(packed.learn)
        arrays[f"{name}_ends"] = packed.ends
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    with opened_whole(path) as file:
        file.write(buffer.getbuffer())


def read_training_set(
    path: Path, config: TrainConfig, *, made_of: str | None = None
) -> TrainingSet:
    """Read the file again.

    Args:
        path: The file.
        config: The configuration that learns from it.
        made_of: What it must have been made of; None asks for nothing.

    Raises:
        ArtefactError: If there is none, it is damaged, or it was made for another configuration.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != _FORMAT:
            raise ArtefactError(f"{str(path)!r} has format {about['format']}; prepare it again")
        found = about["config_sha256"]
        if found != config.sha256():
            raise ArtefactError(
                f"{str(path)!r} was made for the configuration {found[:12]}, this one is "
                f"{config.sha256()[:12]}; prepare it again"
            )
        if made_of not in (None, about["made_of"]):
            raise ArtefactError(
                f"{str(path)!r} was made from other phrases, prompt, tokenizer or code; "
                "prepare it again"
            )
        starts = [0, *arrays["openings_ends"].tolist()]
        tokens = arrays["openings_tokens"].tolist()
        return TrainingSet(
            answers=_examples(arrays, "answers"),
            intents=_examples(arrays, "intents"),
            prefix=tuple(about["prefix"]),
            system_ids=tuple(about["system_ids"]),
            openings=[tuple(tokens[a:b]) for a, b in pairwise(starts)],
            around=about["around"],
            n_after=about["n_after"],
            label_ids=about["label_ids"],
            lost_id=about["lost_id"],
            pieces=about["pieces"],
        )
    except ArtefactError:
        raise
    except _DAMAGE as err:
        raise ArtefactError(f"Cannot read the training set {str(path)!r}: {err}") from err


def data_sha256(data: TrainingSet) -> str:
    """Return the hash of what is learnt, token by token."""
    digest = hashlib.sha256()
    for packed in (PackedExamples.of(data.answers), PackedExamples.of(data.intents)):
        digest.update(array("i", (len(packed), *packed.prefix)).tobytes())
        for part in (packed.ends, packed.tokens, packed.learn):
            digest.update(part.tobytes())
    for opening in data.openings:
        digest.update(array("i", (len(opening), *opening)).tobytes())
    return digest.hexdigest()


def with_bags(data: TrainingSet) -> TrainingSet:
    """Return the set with the bags of its single messages, for a start as a small classifier."""
    n_before = len(data.around) - data.n_after
    number = {token: i for i, token in enumerate(data.label_ids)}
    return data._replace(
        bags=[
            (example.ids[n_before : -(data.n_after + 1)], number[example.ids[-1]])
            for example in data.intents
        ]
    )


def _examples(arrays: dict[str, NDArray[Any]], name: str) -> PackedExamples:
    tokens = arrays[f"{name}_tokens"].astype(np.int32)
    learn = np.unpackbits(arrays[f"{name}_learn"], count=len(tokens)).astype(np.bool_)
    prefix, ends = arrays[f"{name}_prefix"].tolist(), arrays[f"{name}_ends"]
    if len(tokens) != (ends[-1] if len(ends) else 0) or (np.diff(ends) < 0).any():
        raise ValueError(f"{name} do not end where their tokens do")
    return PackedExamples(tokens, learn, ends, prefix=prefix)


def _narrow(tokens: NDArray[np.int32]) -> NDArray[Any]:
    """Return the same numbers in half the bytes, where they fit: the file travels."""
    return tokens.astype(np.uint16) if tokens.max(initial=0) < 1 << 16 else tokens
