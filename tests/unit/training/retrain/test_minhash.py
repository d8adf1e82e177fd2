"""MinHash against comparing everything with everything."""

import random
from itertools import combinations

import numpy as np
import pytest

from training.retrain.minhash import jaccard, near_pairs, shingles, signatures


def _texts(n: int) -> list[str]:
    """Random sentences and edited copies of them."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(4, 40))) for _ in range(n // 2)]
    for text in list(texts):
        edited = text.split()
        edited[rng.randrange(len(edited))] = rng.choice(words)
        texts.append(" ".join(edited))
    return texts


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_the_pairs_are_those_of_an_exact_search(threshold: float) -> None:
    texts = _texts(400)
    sets = [shingles(text) for text in texts]
    exact = [
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if jaccard(sets[one], sets[other]) >= threshold
    ]
    assert len(exact) >= 3
    assert near_pairs(texts, threshold=threshold) == exact


def test_equal_minima_estimate_the_similarity() -> None:
    texts = _texts(100)
    sets = [shingles(text) for text in texts]
    marks = signatures(sets)
    pairs = [(i, i + 50) for i in range(50)]
    errors = [(marks[i] == marks[j]).mean() - jaccard(sets[i], sets[j]) for i, j in pairs]
    # 128 hashes: standard error at most sqrt(0.25 / 128) = 0.044.
    assert abs(np.mean(errors)) < 3 * 0.044 / 50**0.5 + 0.01
    assert max(map(abs, errors)) < 5 * 0.044


def test_a_thousand_copies_are_joined_to_the_first() -> None:
    pairs = near_pairs(["klk quiero esa yipeta"] * 1_000)
    assert pairs == [(0, index) for index in range(1, 1_000)]


def test_short_texts_have_shingles_too() -> None:
    assert near_pairs(["", "a", "a", "klk"]) == [(1, 2)]
