"""The file that a training learns from, and the training that reads nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from training.chat import Encoded
from training.config import TrainConfig
from training.data.stream import Stream
from training.errors import ArtefactError, TrainingError
from training.exercises import TrainingSet
from training.fit import fit, load_network, read_record
from training.packed import PackedExamples
from training.trainer import CHECKPOINT
from training.training_set import TRAINING_SET, read_training_set, with_bags, write_training_set

PROMPT, AFTER, LABELS = (1, 2, 3), (4, 5), (10, 11)
MADE_OF = "ab" * 32
INTENTS = [
    Encoded(
        ids=(*PROMPT, *range(100, 101 + i % 3), *AFTER, LABELS[i % 2]),
        learn=(*[False] * (6 + i % 3), True),
    )
    for i in range(9)
]
ANSWERS = [
    Encoded(ids=(1, 2, 50 + i, 60, 61, 62), learn=(False, False, False, True, True, True))
    for i in range(7)
]
DATA = TrainingSet(
    answers=ANSWERS,
    intents=PackedExamples.of(INTENTS, prefix=PROMPT),
    prefix=PROMPT[:2],
    system_ids=PROMPT,
    openings=[(1, 2, 70, 71), (1, 2, 72)],
    around=[*PROMPT, *AFTER],
    n_after=2,
    label_ids=LABELS,
    lost_id=9,
    pieces=["a", "ñ"],
)
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny",
        "version": "0.0.1",
        "description": "",
        "data": {"n_train": 10},
        "tokenizer": {"vocab_size": 304},
        "model": {"n_layers": 1, "intermediate_size": 256, "n_heads": 2, "n_kv_heads": 1},
        "optim": {"n_steps": 4, "batch_size": 2, "intent_batch_size": 3, "warm_start_epochs": 0},
    }
)


def changed(**optim: object) -> TrainConfig:
    values = CONFIG.model_dump(mode="json")
    return TrainConfig.model_validate(values | {"optim": values["optim"] | optim})


def prepared(folder: Path, config: TrainConfig = CONFIG) -> Path:
    write_training_set(DATA, config, folder / TRAINING_SET, made_of=MADE_OF)
    return folder / TRAINING_SET


def quietly(_: str) -> None:
    pass


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    again = read_training_set(prepared(tmp_path), CONFIG, made_of=MADE_OF)
    assert list(again.answers) == ANSWERS
    assert list(again.intents) == INTENTS
    rest = {"answers": (), "intents": ()}
    assert repr(again._replace(label_ids=LABELS, **rest)) == repr(DATA._replace(**rest))


def test_the_bags_are_the_messages_without_their_surroundings(tmp_path: Path) -> None:
    bags = with_bags(read_training_set(prepared(tmp_path), CONFIG)).bags
    assert [(*ids,) for ids, _ in bags[:3]] == [(100,), (100, 101), (100, 101, 102)]
    assert [label for _, label in bags[:3]] == [0, 1, 0]


def test_large_vocabularies_keep_their_numbers(tmp_path: Path) -> None:
    large = [Encoded(ids=(1, 2, 1 << 17), learn=(False, False, True))]
    path = tmp_path / TRAINING_SET
    write_training_set(DATA._replace(answers=large), CONFIG, path, made_of=MADE_OF)
    assert list(read_training_set(path, CONFIG).answers) == large


def test_a_set_of_something_else_is_refused(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    with pytest.raises(ArtefactError, match="prepare it again"):
        read_training_set(path, changed(n_steps=5))
    with pytest.raises(ArtefactError, match="made from other phrases"):
        read_training_set(path, CONFIG, made_of="cd" * 32)


@pytest.mark.parametrize("damage", ["missing", "cut", "not one", "lacks a part", "ends elsewhere"])
def test_a_damaged_set_is_named(damage: str, tmp_path: Path) -> None:
    path = prepared(tmp_path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "not one":
        path.write_text("{}", encoding="utf-8")
    else:
        with np.load(path) as file:
            arrays = {n: file[n] for n in file.files if n != "answers_ends"}
            ends = {"answers_ends": file["answers_ends"][:-1]} if "ends" in damage else {}
        np.savez(path, **arrays, **ends)
    with pytest.raises(ArtefactError, match=TRAINING_SET):
        read_training_set(path, CONFIG)


def test_a_network_is_trained_once(tmp_path: Path) -> None:
    prepared(tmp_path)
    first = fit(CONFIG, tmp_path, report=quietly)
    told: list[str] = []
    assert fit(CONFIG, tmp_path, report=told.append) == first == read_record(tmp_path)
    assert "trained before" in told[0]
    assert len(told) == 1
    assert first.chip == "cpu"
    assert first.peak_share is None
    # 4 steps: both kinds of exercise, what opens a batch once.
    assert 4 * (3 * 4 + 2 * 4) < first.tokens_seen < 4 * (3 * 7 + 2 * 6 + 2 * 4)


def test_a_network_of_other_data_is_trained_anew(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    first = fit(CONFIG, tmp_path, report=quietly)
    write_training_set(DATA._replace(answers=ANSWERS[1:]), CONFIG, path, made_of=MADE_OF)
    again = fit(CONFIG, tmp_path, report=quietly)
    assert again.data_sha256 != first.data_sha256
    assert again.network_sha256 != first.network_sha256


def test_other_weights_than_those_of_the_record_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path)
    fit(CONFIG, tmp_path, report=quietly)
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ArtefactError, match=r"trained\.json"):
        fit(CONFIG, tmp_path, report=quietly)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    prepared(tmp_path)
    assert read_record(tmp_path) is None
    (tmp_path / "trained.json").write_text('{"config_sha256": "', encoding="utf-8")
    with pytest.raises(ArtefactError, match="damaged"):
        fit(CONFIG, tmp_path, report=quietly)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"device": "cuda"})
    prepared(tmp_path, config)
    with pytest.raises(TrainingError, match=r"in a copy of this folder$"):
        fit(config, tmp_path, report=quietly)
    prepared(tmp_path)
    fit(CONFIG, tmp_path, report=quietly)
    prepared(tmp_path, config)
    with pytest.raises(TrainingError, match="is of another configuration"):
        fit(config, tmp_path, report=quietly)


def weights(network: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    "option", [{"dropout": 0.3}, {"message_loss": 0.5}, {"lost_tokens_percent": 40}]
)
def test_an_option_changes_what_is_learnt_and_a_resumption_does_not(
    option: dict[str, float], tmp_path: Path
) -> None:
    plain, whole, resumed = (tmp_path / name for name in ("plain", "whole", "resumed"))
    config = changed(**option, checkpoint_every_steps=3)
    for folder, chosen in ((plain, CONFIG), (whole, config), (resumed, config)):
        folder.mkdir()
        prepared(folder, chosen)
    fit(CONFIG, plain, report=quietly)
    fit(config, whole, report=quietly)

    def kill(_: str) -> None:
        raise KeyboardInterrupt

    # Progress is first told at the last step, so the checkpoint of step 3 is what is left.
    with pytest.raises(KeyboardInterrupt):
        fit(config, resumed, report=kill)
    assert torch.load(resumed / CHECKPOINT, weights_only=True)["step"] == 3
    fit(config, resumed, report=quietly)
    assert not torch.equal(weights(load_network(plain)), weights(load_network(whole)))
    assert torch.equal(weights(load_network(resumed)), weights(load_network(whole)))


def test_wherever_a_bit_is_flipped_nothing_but_a_named_error_comes(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    content, stream = path.read_bytes(), Stream("flips")
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[stream.below(len(content))] ^= 1 << stream.below(8)
        path.write_bytes(damaged)
        try:
            read_training_set(path, CONFIG)
        except ArtefactError:
            refused += 1
    assert refused > 100
