"""A tiny model goes the whole way from data to manifest, and again after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from training.batches import Batch, BatchPlan
from training.chat import ChatEncoder
from training.config import TrainConfig, load_config
from training.data.catalog import Split
from training.data.generator import generate
from training.errors import TrainingError
from training.manifest import verify_model
from training.network import batch_loss, build_network, count_learnt, make_deterministic
from training.tokenizer import train_tokenizer
from training.trainer import CHECKPOINT, TrainingSet, learning_rate_at, train

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
def encoder(config: TrainConfig) -> ChatEncoder:
    return ChatEncoder(train_tokenizer(config.tokenizer, seed=config.data.seed))


@pytest.fixture(scope="module")
def data(config: TrainConfig, encoder: ChatEncoder) -> TrainingSet:
    rows = list(generate(config.data, Split.TRAIN))
    return TrainingSet(
        answers=[encoder.encode(c.messages, max_tokens=512) for c in rows],
        intents=[encoder.encode_intent(c.messages[-2].content, c.intent) for c in rows],
        prefix=encoder.shared_ids,
    )


def weights(config: TrainConfig, data: TrainingSet, out: Path) -> bytes:
    out.mkdir(exist_ok=True)
    result = train(config, data, out_dir=out, on_progress=lambda _: None)
    return b"".join(p.detach().numpy().tobytes() for p in result.network.parameters())


def test_a_shared_prompt_changes_neither_loss_nor_gradients(
    config: TrainConfig, data: TrainingSet
) -> None:
    make_deterministic(1, 1)
    network = build_network(config)
    batch: Batch = BatchPlan(data.answers, batch_size=4, seed=1, pad_id=0).batch(0)
    ids = torch.tensor(batch.ids)
    labels = ids.masked_fill(~torch.tensor(batch.learn), -100)
    plain = network(ids, labels=labels).loss
    plain.backward()
    expected = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    shared = batch_loss(network, batch, prefix=data.prefix) / count_learnt(batch)
    shared.backward()
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_a_killed_training_resumes_to_the_same_weights(
    config: TrainConfig, data: TrainingSet, tmp_path: Path
) -> None:
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
