"""A tiny model goes the whole way from data to manifest, and again after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer

from tests.full_disk import files, full_disk
from training.chat import ChatEncoder
from training.config import ModelConfig, TrainConfig, load_config
from training.data.catalog import Split, intent_names
from training.data.generator import generate
from training.errors import TrainingError
from training.exercises import StepBatches, TrainingSet
from training.manifest import verify_model
from training.network import (
    batch_loss,
    build_network,
    count_learnt,
    make_deterministic,
    sequence_logits,
)
from training.tokenizer import train_tokenizer
from training.trainer import CHECKPOINT, learning_rate_at, train

NANO = {
    "name": "nano",
    "version": "0.1.0",
    "description": "A test.",
    "threads": 1,
    "data": {"n_train": 124, "heldout_per_pattern": 1, "history_percent": 10},
    "tokenizer": {"vocab_size": 1024, "n_conversations": 300},
    "model": {"n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "intermediate_size": 256},
    "optim": {
        "n_steps": 8,
        "n_intent_steps": 3,
        "answer_every_steps": 2,
        "batch_size": 4,
        "warmup_steps": 2,
        "checkpoint_every_steps": 5,
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = tmp_path_factory.mktemp("config") / "nano.yaml"
    path.write_text(yaml.safe_dump(NANO), encoding="utf-8")
    return load_config(path)


@pytest.fixture(scope="module")
def tokenizer(config: TrainConfig) -> Tokenizer:
    return train_tokenizer(config.tokenizer, seed=config.data.seed)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> ChatEncoder:
    return ChatEncoder(tokenizer)


@pytest.fixture(scope="module")
def data(config: TrainConfig, encoder: ChatEncoder) -> TrainingSet:
    rows = list(generate(config.data, Split.TRAIN))
    return TrainingSet(
        answers=[encoder.encode(c.messages, max_tokens=512) for c in rows],
        intents=[encoder.encode_intent(c.messages[-2].content, c.intent) for c in rows],
        prefix=encoder.shared_ids,
        system_ids=encoder.system_ids,
        openings=[encoder.opening_ids(c.messages) for c in rows if len(c.messages) > 2],
    )


def weights(config: TrainConfig, data: TrainingSet, out: Path) -> bytes:
    out.mkdir(exist_ok=True)
    result = train(config, data, out_dir=out, on_progress=lambda _: None)
    return b"".join(p.detach().numpy().tobytes() for p in result.network.parameters())


@pytest.mark.parametrize("which", [0, 1], ids=["intents after an opening", "whole answers"])
def test_what_a_batch_shares_changes_neither_loss_nor_gradients(
    config: TrainConfig, data: TrainingSet, which: int
) -> None:
    make_deterministic(1, 1)
    network = build_network(config)
    optim = config.optim.model_copy(update={"opening_percent": 100, "intent_batch_size": 4})
    batch, prefix = StepBatches(data, optim, seed=1).at(7)[which]
    assert (len(prefix) > len(data.system_ids)) == (which == 0)
    ids = torch.from_numpy(batch.ids)
    labels = ids.masked_fill(~torch.from_numpy(batch.learn), -100)
    plain = network(ids, labels=labels).loss
    plain.backward()
    expected = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    shared = batch_loss(network, batch, prefix=prefix) / count_learnt(batch)
    shared.backward()
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_a_killed_training_resumes_to_the_same_weights(
    config: TrainConfig, data: TrainingSet, tmp_path: Path
) -> None:
    batches = StepBatches(data, config.optim, seed=config.seed)
    opened = [batches.at(step)[0].prefix != data.prefix for step in range(8)]
    assert any(opened[:5])
    assert any(opened[5:])
    whole = weights(config, data, tmp_path / "whole")
    killed = tmp_path / "killed"
    killed.mkdir()

    def kill(_: object) -> None:
        raise KeyboardInterrupt

    # Progress is first reported at the last step, so the checkpoint of step 5 is what is left.
    with pytest.raises(KeyboardInterrupt):
        train(config, data, out_dir=killed, on_progress=kill)
    assert torch.load(killed / CHECKPOINT, weights_only=True)["step"] == 5
    assert weights(config, data, killed) == whole


def test_a_checkpoint_of_another_configuration_is_refused(
    config: TrainConfig, data: TrainingSet, tmp_path: Path
) -> None:
    weights(config, data, tmp_path)
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(TrainingError, match="another configuration"):
        weights(other, data, tmp_path)


def test_a_checkpoint_of_other_openings_is_refused(
    config: TrainConfig, data: TrainingSet, tmp_path: Path
) -> None:
    weights(config, data, tmp_path)
    with pytest.raises(TrainingError, match="another dataset"):
        weights(config, data._replace(openings=data.openings[1:]), tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(
    config: TrainConfig, data: TrainingSet, tmp_path: Path
) -> None:
    with full_disk(), pytest.raises(OSError, match="File too large"):
        weights(config, data, tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("warm_start", ["bag", "pairs"])
def test_a_training_begins_with_what_its_small_classifier_knows(
    warm_start: str,
    config: TrainConfig,
    tokenizer: Tokenizer,
    encoder: ChatEncoder,
    data: TrainingSet,
    tmp_path: Path,
) -> None:
    shape = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "intermediate_size": 256}
    model = ModelConfig(**shape, rope_theta=1e7, tie_embeddings=False)
    changes = {"n_steps": 1, "n_intent_steps": 0, "learning_rate": 1e-9, "warm_start_epochs": 80}
    optim = config.optim.model_copy(update={**changes, "warm_start": warm_start})
    names = intent_names()
    rows = list(generate(config.data, Split.TRAIN))
    bags = [(encoder.text_ids(c.messages[-2].content), names.index(c.intent)) for c in rows]
    label_ids = [encoder.intent_id(name) for name in names]
    vocabulary = range(config.tokenizer.vocab_size)
    result = train(
        config.model_copy(update={"model": model, "optim": optim}),
        data._replace(
            bags=bags,
            around=encoder.around_ids,
            n_after=encoder.n_after,
            label_ids=label_ids,
            pieces=[tokenizer.decode([i]) for i in vocabulary],
        ),
        out_dir=tmp_path,
        on_progress=lambda _: None,
    )
    right = sum(
        label_ids[sequence_logits(result.network, list(e.ids[:-1]))[-1, label_ids].argmax()]
        == e.ids[-1]
        for e in data.intents
    )
    assert right > 0.7 * len(data.intents)


def test_the_learning_rate_warms_up_and_falls_to_its_floor(config: TrainConfig) -> None:
    optim = config.optim
    rates = [learning_rate_at(step, optim) for step in range(optim.n_steps + 1)]
    assert rates[0] == optim.learning_rate / optim.warmup_steps
    assert max(rates) == optim.learning_rate
    assert rates[-1] == pytest.approx(optim.learning_rate * optim.final_rate_ratio)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_the_command_makes_a_model_that_verifies(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(NANO), encoding="utf-8")
    out, models = tmp_path / "work", tmp_path / "models"
    done = subprocess.run(
        [sys.executable, "-m", "training.train", "--config", str(path), "--out", str(out),
         "--install", str(models), "--json"],
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = verify_model(models / "nano.manifest.json")
    assert json.loads(done.stdout)["sha256"] == manifest.sha256
    assert manifest.config_sha256 == config.sha256()
    assert manifest.quantisation == "Q4_K_M"
    assert manifest.metrics.n_conversations > 100
    assert "tokens/s" in done.stderr
    assert (out / "metrics.json").exists()
