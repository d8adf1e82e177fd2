"""Guesses from earlier text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.drafts import Lookup


def test_what_followed_last_time_is_guessed():
    lookup = Lookup([1, 2, 3, 4, 5, 9, 2, 3], n_max=20)
    assert lookup.propose(2) == (4, 5)


def test_longer_and_later_occurrences_count_more():
    assert Lookup([7, 2, 3, 4, 1, 2, 3, 8, 7, 2, 3], n_max=20).propose(1) == (4,)
    assert Lookup([2, 3, 4, 2, 3, 8, 2, 3], n_max=20).propose(1) == (8,)


def test_nothing_known_is_no_guess():
    assert Lookup([1, 2, 3], n_max=8).propose(4) == ()
    assert Lookup([1], n_max=8).propose(4) == ()
    assert Lookup([], n_max=8).propose(4) == ()


def test_the_answer_itself_is_searched_as_it_grows():
    tokens = [5, 6]
    lookup = Lookup(list(tokens), n_max=20)
    tokens += [1, 2, 3, 1, 2]
    lookup.follow(tokens)
    assert lookup.propose(3) == (3, 1, 2)


def test_earlier_answers_are_searched_too():
    earlier = np.array([4, 5, 6, 7], dtype=np.int32)
    lookup = Lookup([1, 4, 5], n_max=10, earlier=earlier)
    assert lookup.propose(2) == (6, 7)
    lookup.follow([1, 4, 5, 6])
    assert lookup.propose(1) == (7,)


def test_the_rate_follows_what_comes_true_and_recovers():
    lookup = Lookup([1, 2], n_max=1000)
    for _ in range(30):
        lookup.record(4, 0)
    assert lookup.rate < 0.05
    lookup.follow([1, 2] + [3] * 24)
    assert lookup.rate > 0.2
    for _ in range(30):
        lookup.record(4, 4)
    assert lookup.rate > 0.7


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8))
def test_a_guess_did_follow_the_same_two_tokens_before(tokens, n):
    guess = Lookup(list(tokens), n_max=100).propose(n)
    assert len(guess) <= n
    if guess:
        text = ",".join(map(str, tokens[:])) + ","
        seen = ",".join(map(str, [*tokens[-2:], *guess])) + ","
        assert seen in text
