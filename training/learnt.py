"""The conversations that a training learns: generated, or a dataset with feedback in it."""

from collections.abc import Sequence
from typing import NamedTuple

from training.config import TrainConfig
from training.data.catalog import Split
from training.data.generator import Message, Phrase, generate
from training.errors import ConfigError


class Learnt(NamedTuple):
    """A conversation that ends with the answer to learn."""

    intent: str
    messages: Sequence[Message]


def training_conversations(config: TrainConfig) -> list[Learnt]:
    """Return the conversations of a training.

    Raises:
        ConfigError: If the dataset of the configuration cannot be used, or is another one.
    """
    if config.dataset is None:
        return [Learnt(c.intent, c.messages) for c in generate(config.data, Split.TRAIN)]
    from experiments.retraining.errors import RetrainingError
    from training.retrain.examples import read_examples
    from training.retrain.prepare import read_manifest

    folder = config.dataset.path
    try:
        manifest = read_manifest(folder)
        examples = read_examples(folder / "train.jsonl")
    except RetrainingError as error:
        raise ConfigError(f"dataset {str(folder)!r}: {error.message}") from error
    if manifest.sha256 != config.dataset.sha256:
        raise ConfigError(
            f"dataset {str(folder)!r} has SHA-256 {manifest.sha256}, the configuration says "
            f"{config.dataset.sha256}"
        )
    return [
        Learnt(e.intent, [Message(role=m.role, content=m.content) for m in e.messages])
        for e in examples
    ]


def prepared_phrases(config: TrainConfig, learnt: Sequence[Learnt]) -> list[Phrase]:
    """Return the customers' last messages of a dataset; those of generated data come apart."""
    if config.dataset is None:
        return []
    return [
        Phrase(conversation.messages[-2].content, conversation.intent) for conversation in learnt
    ]
