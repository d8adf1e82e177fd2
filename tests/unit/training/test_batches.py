"""The order of training batches."""

import pytest

from training.batches import BatchPlan
from training.chat import Encoded

EXAMPLES = [
    Encoded(ids=tuple(range(1, 3 + i % 7)), learn=(False, *[True] * (1 + i % 7))) for i in range(50)
]


def plan(seed: int = 1) -> BatchPlan:
    return BatchPlan(EXAMPLES, batch_size=4, seed=seed, pad_id=0)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    fresh = plan()
    in_order = [fresh.batch(step) for step in range(30)]
    assert plan().batch(29) == in_order[29]
    assert plan(2).batch(0) != in_order[0]


def test_an_epoch_shows_no_conversation_twice() -> None:
    batches = [plan().batch(step) for step in range(len(EXAMPLES) // 4)]
    assert sum(b.n_tokens for b in batches) <= sum(len(e.ids) for e in EXAMPLES)
    assert sum(len(b.ids) for b in batches) == 48


def test_padding_is_never_learnt() -> None:
    for step in range(12):
        batch = plan().batch(step)
        assert len({len(row) for row in batch.ids}) == 1
        for ids, learn in zip(batch.ids, batch.learn, strict=True):
            assert not any(flag for token, flag in zip(ids, learn, strict=True) if token == 0)


def test_too_few_conversations_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        BatchPlan(EXAMPLES[:3], batch_size=4, seed=1, pad_id=0)
