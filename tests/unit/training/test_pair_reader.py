"""What reads tokens in pairs tells orders apart, and a network wired from it answers the same."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from tests.unit.training.test_wiring import EPS, N_TOKENS, config
from training.network import build_network, make_deterministic
from training.pair_reader import PairReader, reader_logits, with_markup
from training.pair_training import train_pair_reader
from training.skills import wire_reader
from training.wiring import CODE_NORM, layout, token_codes, window, wire

BEFORE, AFTER = [1, 2], [3, 4]
LABEL_IDS = [10, 11, 12, 13]
ORDERS = [(100, 101), (101, 100), (102, 103), (103, 102)]
"""Two tokens in a row; a bag of tokens cannot tell the first label from the second."""
OPENINGS = [[1, *range(400 + i, 480, 1 + i), 2] for i in range(4)]
"""Other things that may stand before a message, up to seven times as long."""
PLAN = layout(256)
WINDOW = window(1024, head_dim=64, rope_theta=1e7)


def messages(n: int, *, seed: int) -> tuple[list[list[int]], list[int]]:
    """Return messages of seven tokens that hold the pair of their label somewhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = [i % len(ORDERS) for i in range(n)]
    rows = torch.randint(300, 340, (n, 5), generator=generator).tolist()
    places = torch.randint(6, (n,), generator=generator).tolist()
    said = [
        [*row[:at], *ORDERS[label], *row[at:]]
        for row, at, label in zip(rows, places, labels, strict=True)
    ]
    return said, labels


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> Iterator[None]:
    """As a training sets torch up; without it, threads add in any order."""
    n_threads = torch.get_num_threads()
    make_deterministic(1, 2)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(n_threads)


def train_reader(n_epochs: int = 50) -> PairReader:
    said, labels = messages(1500, seed=1)
    return train_pair_reader(
        said,
        labels,
        before=[BEFORE, *OPENINGS],
        after=AFTER,
        window=WINDOW,
        pieces=[f"t{i}" for i in range(N_TOKENS)],
        codes=token_codes(N_TOKENS, hidden_size=256, seed=3),
        plan=PLAN,
        n_units=64,
        norm_eps=EPS,
        n_epochs=n_epochs,
        seed=5,
    )


@pytest.fixture(scope="module")
def reader() -> PairReader:
    return train_reader()


@pytest.fixture(scope="module")
def network(reader: PairReader) -> LlamaForCausalLM:
    torch.manual_seed(7)
    network = build_network(config())
    wire(network, reader.embeddings, seed=9)
    wire_reader(network, reader, PLAN)
    with torch.no_grad():
        network.lm_head.weight[LABEL_IDS] = functional.pad(reader.head, (0, 256 - PLAN.values.stop))
    return network.eval()


@torch.inference_mode()
def logits_of(
    reader: PairReader, said: list[list[int]], opening: list[int] = BEFORE
) -> torch.Tensor:
    segments = with_markup(
        torch.tensor([token for message in said for token in message]),
        torch.tensor([len(message) for message in said]),
        after=AFTER,
    )
    return reader_logits(
        reader, segments, torch.tensor(opening), window=WINDOW, plan=PLAN, norm_eps=EPS
    )


def test_it_tells_the_orders_of_unseen_messages_apart(reader: PairReader) -> None:
    said, labels = messages(200, seed=2)
    right = logits_of(reader, said).argmax(1) == torch.tensor(labels)
    assert right.float().mean() > 0.95


def test_a_message_is_read_the_same_beside_any_others(reader: PairReader) -> None:
    said, _ = messages(8, seed=3)
    said[2] = said[2][:3]
    alone = torch.cat([logits_of(reader, [message]) for message in said])
    torch.testing.assert_close(logits_of(reader, said), alone, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("opening", "likeness"),
    [(BEFORE, 0.99), (OPENINGS[0], 0.8), ([1, *range(480, 420, -2), 2], 0.8)],
)
@torch.inference_mode()
def test_a_network_wired_from_it_answers_the_same(
    reader: PairReader, network: LlamaForCausalLM, opening: list[int], likeness: float
) -> None:
    said, labels = messages(100, seed=4)
    ids = torch.tensor([[*opening, *message, *AFTER] for message in said])
    logits = network(ids).logits[:, -1, LABEL_IDS]
    assert (logits.argmax(1) == torch.tensor(labels)).float().mean() > 0.95
    # The head that notes several tokens before writes beside the values: the norm turns a little.
    both = torch.stack([logits.flatten(), logits_of(reader, said, opening).flatten()])
    assert torch.corrcoef(both)[0, 1] > likeness


@torch.inference_mode()
def test_the_network_still_repeats_what_followed_before(network: LlamaForCausalLM) -> None:
    row = torch.randperm(100, generator=torch.Generator().manual_seed(11))[:60] + 200
    ids = torch.cat([row, row[20:40]]).unsqueeze(0)
    logits = network(ids).logits[0, -20:-1, 200:500]
    assert (logits.argmax(-1) + 200 == ids[0, -19:]).float().mean() >= 0.9


def test_identities_keep_their_length(reader: PairReader) -> None:
    lengths = reader.embeddings[:, PLAN.identity].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, CODE_NORM))


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = train_reader(n_epochs=1), train_reader(n_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_markup_follows_every_message() -> None:
    segments = with_markup(torch.tensor([5, 6, 7]), torch.tensor([2, 1]), after=AFTER)
    assert segments.ids.tolist() == [5, 6, 3, 4, 7, 3, 4]
    assert segments.owner.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert (segments.starts.tolist(), segments.lengths.tolist()) == ([0, 4], [4, 3])
    assert all(a <= b for a, b in pairwise(segments.owner.tolist()))
