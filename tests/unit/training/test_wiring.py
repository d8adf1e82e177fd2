"""A wired network computes what its bag of tokens does, and repeats what followed before."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from training.config import ModelConfig, OptimConfig, TokenizerConfig, TrainConfig
from training.data.generator import DataConfig
from training.network import build_network
from training.warm_start import BagOfTokens, train_bag_of_tokens
from training.wiring import can_be_wired, layout, token_codes, wire

N_TOKENS = 512
EPS = 1e-5
AROUND = [1, 2, 3]


def config(**model: object) -> TrainConfig:
    shape = {
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 4,
        "rope_theta": 1e7,
        "tie_embeddings": False,
    }
    return TrainConfig(
        name="wired",
        version="0.0.1",
        description="",
        data=DataConfig(),
        tokenizer=TokenizerConfig(vocab_size=N_TOKENS),
        model=ModelConfig.model_validate(shape | model),
        optim=OptimConfig(n_steps=1),
    )


@pytest.fixture(scope="module")
def bag() -> BagOfTokens:
    """Messages of label L contain the token 100 + L."""
    generator = torch.Generator().manual_seed(1)
    labels = [i % 4 for i in range(800)]
    noise = torch.randint(200, N_TOKENS, (800, 5), generator=generator).tolist()
    return train_bag_of_tokens(
        [[*rest, 100 + label] for rest, label in zip(noise, labels, strict=True)],
        labels,
        around=AROUND,
        pieces=[f"t{i}" for i in range(N_TOKENS)],
        codes=token_codes(N_TOKENS, hidden_size=256, seed=3),
        n_values=layout(256).values.stop,
        norm_eps=EPS,
        n_epochs=12,
        seed=5,
    )


@pytest.fixture(scope="module")
def network(bag: BagOfTokens) -> LlamaForCausalLM:
    torch.manual_seed(7)
    network = build_network(config())
    assert can_be_wired(network)
    wire(network, bag.embeddings, seed=9)
    with torch.no_grad():
        network.lm_head.weight[[10, 11, 12, 13]] = bag.head
    return network.eval()


def bag_logits(bag: BagOfTokens, ids: list[int]) -> Tensor:
    """The classifier by its formula."""
    n_values = layout(256).values.stop
    values = functional.rms_norm(bag.embeddings, (256,), eps=EPS)[:, :n_values]
    hidden = bag.embeddings[ids[-1]].clone()
    hidden[:n_values] += values[ids].mean(0)
    return bag.head @ functional.rms_norm(hidden, (256,), eps=EPS)


@torch.inference_mode()
def test_it_names_the_label_as_the_bag_does(bag: BagOfTokens, network: LlamaForCausalLM) -> None:
    for label in range(4):
        ids = [AROUND[0], AROUND[1], 300 + label, 100 + label, 250, AROUND[2]]
        logits = network(torch.tensor([ids])).logits[0, -1, [10, 11, 12, 13]]
        assert int(logits.argmax()) == label
        # The heads that note neighbours write beside the values and turn the norm a little.
        expected = bag_logits(bag, ids)
        assert torch.corrcoef(torch.stack([logits, expected]))[0, 1] > 0.99


@pytest.mark.parametrize("n_tokens", [60, 300])
@torch.inference_mode()
def test_it_repeats_what_followed_before(network: LlamaForCausalLM, n_tokens: int) -> None:
    generator = torch.Generator().manual_seed(11)
    right = total = 0
    for _ in range(5):
        row = torch.randperm(300, generator=generator)[:n_tokens] + 200
        ids = torch.cat([row, row[20:40]]).unsqueeze(0)
        logits = network(ids).logits[0, -20:-1, 200:500]
        right += int((logits.argmax(-1) + 200 == ids[0, -19:]).sum())
        total += 19
    assert right >= 0.9 * total


@torch.inference_mode()
def test_the_token_before_is_found_among_vectors_of_any_length() -> None:
    plan = layout(256)
    generator = torch.Generator().manual_seed(4)
    embeddings = token_codes(N_TOKENS, hidden_size=256, seed=3)
    lengths = torch.rand(N_TOKENS, 1, generator=generator) * 0.6
    embeddings[:, plan.values] = lengths * torch.randn(
        N_TOKENS, plan.values.stop, generator=generator
    )
    torch.manual_seed(7)
    network = build_network(config()).eval()
    wire(network, embeddings, seed=9)
    ids = torch.randperm(N_TOKENS, generator=generator)[:200]
    stream = network.model(ids.unsqueeze(0), output_hidden_states=True).hidden_states[1][0]
    noted, before = stream[1:, plan.previous], embeddings[ids[:-1], plan.identity]
    assert functional.cosine_similarity(noted, before).min() > 0.8


@torch.inference_mode()
def test_layers_beyond_the_second_change_nothing_yet(network: LlamaForCausalLM) -> None:
    ids = torch.arange(20).unsqueeze(0) + 200
    states = network.model(ids, output_hidden_states=True)
    before_last = network.model.norm(states.hidden_states[2])
    torch.testing.assert_close(states.last_hidden_state, before_last)


def test_everything_that_is_wired_can_be_trained_away(bag: BagOfTokens) -> None:
    network = build_network(config())
    wire(network, bag.embeddings, seed=9)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ids = torch.randint(N_TOKENS, (2, 24), generator=torch.Generator().manual_seed(2))
    for _ in range(3):  # what zeros hide shows one step after another: output, query, key
        optimizer.zero_grad()
        network(ids, labels=ids).loss.backward()
        optimizer.step()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_the_parts_of_the_layout_fill_the_stream_without_overlap() -> None:
    *parts, constant = layout(256)
    dimensions = [i for part in parts for i in range(part.start, part.stop)]
    assert [*dimensions, constant] == list(range(256))


@pytest.mark.parametrize(
    "shape",
    [
        {"n_kv_heads": 2},
        {"n_layers": 1},
        {"tie_embeddings": True},
        {"hidden_size": 512},
    ],
)
def test_other_shapes_are_not_wired(shape: dict[str, object], tmp_path: Path) -> None:
    assert not can_be_wired(build_network(config(**shape)))
