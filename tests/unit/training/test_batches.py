"""The order of training batches."""

from collections import Counter

import pytest

from training.batches import Batch, BatchPlan
from training.chat import Encoded

EXAMPLES = [
    Encoded(ids=tuple(range(1, 3 + i % 7)), learn=(False, *[True] * (1 + i % 7))) for i in range(50)
]


def plan(seed: int = 1) -> BatchPlan:
    return BatchPlan(EXAMPLES, batch_size=4, seed=seed, pad_id=0)


def same(one: Batch, other: Batch) -> bool:
    return all(a.tolist() == b.tolist() for a, b in zip(one, other, strict=True))


def test_a_batch_depends_on_seed_and_step_only() -> None:
    fresh = plan()
    in_order = [fresh.batch(step) for step in range(30)]
    assert same(plan().batch(29), in_order[29])
    assert not same(plan(2).batch(0), in_order[0])


def test_an_epoch_shows_no_conversation_twice() -> None:
    batches = [plan().batch(step) for step in range(len(EXAMPLES) // 4)]
    shown = [tuple(row[:n]) for b in batches for row, n in zip(b.ids, b.lengths, strict=True)]
    assert len(shown) == 48
    left = Counter(e.ids for e in EXAMPLES)
    left.subtract(shown)
    assert min(left.values()) == 0
    assert sum(b.n_tokens for b in batches) == sum(map(len, shown))


def test_padding_is_never_learnt() -> None:
    for step in range(12):
        batch = plan().batch(step)
        assert (batch.ids == 0).sum() == batch.ids.size - batch.n_tokens
        assert not batch.learn[batch.ids == 0].any()


def test_too_few_conversations_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        BatchPlan(EXAMPLES[:3], batch_size=4, seed=1, pad_id=0)
