"""Weights and tokenizer to start from."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from training.batches import BatchPlan
from training.chat import Encoded
from training.config import BaseConfig, TrainConfig
from training.data.generator import DataConfig
from training.errors import TrainingError
from training.manifest import file_sha256
from training.network import (
    batch_losses,
    build_network,
    drop_out,
    load_weights,
    save_network,
)
from training.tokenizer import base_tokenizer, save_tokenizer

CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny",
        "version": "0.0.1",
        "description": "",
        "data": DataConfig(n_train=10),
        "tokenizer": {"vocab_size": 512},
        "model": {"n_layers": 1, "intermediate_size": 256, "tie_embeddings": False},
        "optim": {"n_steps": 1},
    }
)


@pytest.fixture
def base(tmp_path: Path) -> BaseConfig:
    torch.manual_seed(7)
    save_network(build_network(CONFIG), tmp_path / "hf")
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "ñ": 1}, merges=[]))
    return BaseConfig(
        folder=tmp_path,
        network_sha256=file_sha256(tmp_path / "hf" / "model.safetensors"),
        tokenizer_sha256=save_tokenizer(tokenizer, tmp_path / "tokenizer.json"),
    )


def test_a_training_starts_from_the_weights_of_its_base(base: BaseConfig) -> None:
    torch.manual_seed(7)
    expected = build_network(CONFIG).state_dict()
    network = build_network(CONFIG)
    load_weights(network, base)
    assert all(torch.equal(w, expected[name]) for name, w in network.state_dict().items())


def test_other_weights_than_the_named_ones_are_refused(base: BaseConfig) -> None:
    named = base.model_copy(update={"network_sha256": "0" * 64})
    with pytest.raises(TrainingError, match="the configuration names 0000"):
        load_weights(build_network(CONFIG), named)


def test_a_base_that_is_not_there_is_named(base: BaseConfig, tmp_path: Path) -> None:
    gone = base.model_copy(update={"folder": tmp_path / "gone"})
    with pytest.raises(TrainingError, match="train it first"):
        load_weights(build_network(CONFIG), gone)


def test_a_base_of_another_shape_is_refused(base: BaseConfig) -> None:
    wide = CONFIG.model.model_copy(update={"intermediate_size": 512})
    deep = CONFIG.model.model_copy(update={"n_layers": 2})
    for shape in (wide, deep):
        with pytest.raises(TrainingError, match="is of another shape"):
            load_weights(build_network(CONFIG.model_copy(update={"model": shape})), base)


def test_a_training_takes_over_the_tokenizer_of_its_base(base: BaseConfig, tmp_path: Path) -> None:
    tokenizer = base_tokenizer(base, vocab_size=2)
    assert tokenizer.get_vocab() == {"a": 0, "ñ": 1}
    assert save_tokenizer(tokenizer, tmp_path / "again.json") == base.tokenizer_sha256


def test_another_tokenizer_than_the_named_one_is_refused(base: BaseConfig) -> None:
    named = base.model_copy(update={"tokenizer_sha256": "0" * 64})
    with pytest.raises(TrainingError, match=r"tokenizer\.json.* the configuration names 0000"):
        base_tokenizer(named, vocab_size=2)


def test_a_tokenizer_that_is_not_there_is_named(base: BaseConfig, tmp_path: Path) -> None:
    gone = base.model_copy(update={"folder": tmp_path / "gone"})
    with pytest.raises(TrainingError, match=r"gone/tokenizer\.json.*train it first"):
        base_tokenizer(gone, vocab_size=2)


def test_a_tokenizer_of_another_size_is_refused(base: BaseConfig) -> None:
    with pytest.raises(TrainingError, match=r"has 2 tokens, .*vocab_size is 512"):
        base_tokenizer(base, vocab_size=512)


def test_the_loss_of_other_tokens_is_that_of_all_but_prefix_padding_and_learnt_ones() -> None:
    torch.manual_seed(3)
    network = build_network(CONFIG)
    prefix = (5, 6)
    examples = [
        Encoded(ids=(*prefix, 20, 21, 22, 30), learn=(*[False] * 5, True)),
        Encoded(ids=(*prefix, 23, 31), learn=(*[False] * 3, True)),
    ]
    batch = BatchPlan(examples, batch_size=2, seed=0, pad_id=0).batch(0)
    losses = batch_losses(network, batch, prefix=prefix, others=True)
    # The first token behind the prefix is given, so 21, 22 are the others, and 30, 31 are learnt.
    log_p = torch.log_softmax(network(torch.tensor([[*prefix, 20, 21, 22, 30]])).logits[0], dim=-1)
    expected = -(log_p[2, 21] + log_p[3, 22]) / 2
    assert losses.others is not None
    torch.testing.assert_close(losses.others, expected, atol=1e-5, rtol=0)
    alone = batch_losses(network, batch, prefix=prefix)
    assert alone.others is None
    torch.testing.assert_close(alone.learnt, losses.learnt)


def test_what_is_dropped_while_training_is_there_afterwards() -> None:
    torch.manual_seed(3)
    network = build_network(CONFIG)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = network.eval()(ids).logits
    drop_out(network, 0.5)
    torch.testing.assert_close(network(ids).logits, before)
    network.train()
    assert not torch.equal(network(ids).logits, network(ids).logits)
    assert set(network.state_dict()) == set(build_network(CONFIG).state_dict())
