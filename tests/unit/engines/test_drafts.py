"""Guesses from an answer's own text."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.drafts import NO_DRAFT, Draft, Lookup


def guess(tokens, n, *, prompt=None):
    return Lookup(tokens if prompt is None else prompt, n_max=100).propose(tokens, n).tokens


def test_what_followed_last_time_is_guessed():
    assert guess([1, 2, 3, 4, 5, 9, 2, 3], 2) == (4, 5)


def test_longer_and_later_occurrences_count_more():
    assert guess([7, 2, 3, 4, 1, 2, 3, 8, 7, 2, 3], 1) == (4,)
    assert guess([2, 3, 4, 2, 3, 8, 2, 3], 1) == (8,)


def test_nothing_known_is_no_guess():
    for tokens in ([1, 2, 3], [1], []):
        assert Lookup(tokens, n_max=8).propose(tokens, 4) == NO_DRAFT


def test_the_answer_itself_is_searched_as_it_grows():
    assert guess([5, 6, 1, 2, 3, 1, 2], 3, prompt=[5, 6]) == (3, 1, 2)


def test_each_token_of_a_guess_is_less_likely_than_the_one_before():
    draft = Lookup([1, 2, 3, 4, 1, 2], n_max=20).propose([1, 2, 3, 4, 1, 2], 3)
    assert draft.source == "prompt"
    assert draft.chances == (0.5, 0.25, 0.125)
    assert draft.cut(1) == Draft("prompt", (3,), (0.5,))
    assert draft.cut(9) == draft


def test_the_rate_follows_what_comes_true_and_recovers():
    lookup = Lookup([1, 2], n_max=1000)
    draft = Draft("prompt", (7, 7, 7, 7), (0.5, 0.2, 0.1, 0.1))
    for _ in range(30):
        lookup.record(draft, 0)
    assert lookup.rate < 0.05
    lookup.propose([1, 2] + [3] * 24, 1)
    assert lookup.rate > 0.2
    for _ in range(30):
        lookup.record(draft, 4)
    assert lookup.rate > 0.7


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8))
def test_a_guess_did_follow_the_same_two_tokens_before(tokens, n):
    found = guess(tokens, n)
    assert len(found) <= n
    if found:
        text = ",".join(map(str, tokens)) + ","
        seen = ",".join(map(str, [*tokens[-2:], *found])) + ","
        assert seen in text
